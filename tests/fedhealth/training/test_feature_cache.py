import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fedhealth.config.schema import ColumnsConfig, DataConfig, ImageDataConfig, ModelConfig, TabularColumnConfig
from fedhealth.data.dataset import prepare_dataset
from fedhealth.data.examples import Examples, ModalitySource, build_examples
from fedhealth.models.encoders.image import ImageEncoder
from fedhealth.models.multimodal import build_model
from fedhealth.training import feature_cache
from fedhealth.training.feature_cache import add_cached_features


@pytest.fixture
def cohort(hospitals, tmp_path):
    (hospitals / "north" / "images" / "3.png").unlink()
    return prepare_dataset(
        DataConfig(
            name="t",
            root=str(hospitals),
            manifest="{site}/manifest.csv",
            cache=str(tmp_path / "cache"),
            sites=["north"],
            columns=ColumnsConfig(study="study_id", image="image", text="text"),
            image=ImageDataConfig(16, 1),
            max_rejected=0.1,
        ),
        "north",
    )


@pytest.fixture
def build(tmp_path, encoder_saver):
    def made(train="none", seed=0, text=None):
        torch.manual_seed(seed)
        weights = tmp_path / f"{seed}.safetensors"
        save_file(ImageEncoder().network.state_dict(), weights)
        config = ModelConfig(
            dim=4,
            image={"_target_": "fedhealth.models.encoders.image.ImageEncoder", "weights": str(weights), "train": train},
            text={
                "_target_": "fedhealth.models.encoders.text.TextEncoder",
                "pretrained": str(encoder_saver(tmp_path / "bert")),
                "train": text or train,
            },
            fusion={"_target_": "fedhealth.models.fusion.ConcatFusion", "hidden": 0},
        )
        return build_model(config, DataConfig(name="t", root=".", sites=["north"]), 0).eval()

    return made


def inputs(cohort, model):
    return build_examples(cohort, model.modalities, model.towers["text"].encoder.tokenize)


def test_cached_features_give_the_logits_of_the_values(cohort, build):
    model = build()
    direct = inputs(cohort, model)
    stood_in = add_cached_features(direct, cohort, model)
    assert set(stood_in.sources) == {"image_features", "text_features"}
    rows = np.arange(24)
    with torch.inference_mode():
        torch.testing.assert_close(model(stood_in.batch(rows)), model(direct.batch(rows)), rtol=1e-5, atol=1e-5)
    assert stood_in.batch(rows)["image_present"].tolist() == [row != 3 for row in range(24)]


def test_an_encoder_without_weights_has_nothing_to_keep(cohort):
    values = ModalitySource(np.ones((24, 2), np.float32), np.arange(24))
    examples = Examples({"tabular": values}, cohort.labels, cohort.patient, cohort.study)
    config = ModelConfig(
        dim=None,
        tabular={"_target_": "fedhealth.models.encoders.tabular.TabularEncoder", "hidden": 0},
        fusion={"_target_": "fedhealth.models.fusion.ConcatFusion", "hidden": 0},
    )
    data = DataConfig(name="t", root=".", sites=["north"], tabular={"x": TabularColumnConfig()})
    assert add_cached_features(examples, cohort, build_model(config, data, 0)) is examples


def test_a_frozen_tower_is_asked_once(cohort, build, monkeypatch):
    model = build()
    first = add_cached_features(inputs(cohort, model), cohort, model)

    def never(*arguments):
        raise AssertionError("encoded again")

    monkeypatch.setattr(feature_cache, "_encode_in_batches", never)
    again = add_cached_features(inputs(cohort, model), cohort, build())
    for name, source in first.sources.items():
        assert isinstance(again.sources[name].values, np.memmap)
        np.testing.assert_array_equal(again.sources[name].values, source.values)


def test_other_weights_are_other_features(cohort, build):
    one, other = (add_cached_features(inputs(cohort, model), cohort, model) for model in (build(), build(seed=1)))
    assert (one.sources["image_features"].values != other.sources["image_features"].values).any()


def test_a_changed_tokenizer_is_other_features(cohort, build, monkeypatch):
    model = build()
    one = add_cached_features(inputs(cohort, model), cohort, model)
    tokenize = model.towers["text"].encoder.tokenize
    monkeypatch.setattr(model.towers["text"].encoder, "tokenize", lambda texts: tokenize(texts)[:, ::-1].copy())
    other = add_cached_features(inputs(cohort, model), cohort, model)
    assert (one.sources["text_features"].values != other.sources["text_features"].values).any()


def test_a_trained_tower_is_left_alone(cohort, build):
    model = build(train="all")
    assert set(add_cached_features(inputs(cohort, model), cohort, model).sources) == {"image", "text"}


@pytest.mark.parametrize("trained", ["9", "10"])
def test_the_frozen_front_of_a_trained_tower_is_asked_once(cohort, build, trained):
    model = build(train=[trained], text="none")
    direct = inputs(cohort, model)
    stood_in = add_cached_features(direct, cohort, model)
    assert set(stood_in.sources) == {"image_maps", "text_features"}
    rows = np.arange(24)
    with torch.inference_mode():
        torch.testing.assert_close(model(stood_in.batch(rows)), model(direct.batch(rows)), rtol=1e-5, atol=1e-5)
    assert stood_in.batch(rows)["image_present"].tolist() == [row != 3 for row in range(24)]


def test_a_front_whose_outputs_are_larger_than_the_images_is_not_cached(cohort, build):
    model = build(train=["6"], text="none")
    assert "image" in add_cached_features(inputs(cohort, model), cohort, model).sources


def test_a_site_without_the_modality_is_left_alone(cohort, build):
    from dataclasses import replace

    model = build()
    bare = replace(cohort, texts=("",) * 24, images=cohort.images[:0], image_index=np.full(24, -1))
    assert set(add_cached_features(inputs(bare, model), bare, model).sources) == {"image", "text"}
