"""Fifteen kinds of encoders: each loads, trains, trains under privacy, or is refused where the run is composed."""

import warnings

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from fedhealth.config.compose import compose_config
from fedhealth.errors import ConfigError, ModelError, PrivacyError
from fedhealth.models.model_state import list_trained_arrays
from fedhealth.models.multimodal import build_model
from fedhealth.training.check_batch import make_check_batch
from fedhealth.training.check_model import check_model, make_blank_examples
from fedhealth.training.losses import compute_row_losses
from tests.tiny_encoders import IMAGES, TEXT, save_image_encoder, save_text_encoder

KINDS = [*TEXT, *IMAGES]
# The layer that private training of the whole encoder cannot protect; all others train.
REFUSED_WHOLE = {
    "deberta": "pos_query_proj|pos_key_proj",
    "t5": "T5LayerNorm",
    "xlnet": "XLNetModel",
    "gpt2": "Conv1D",
    "vit": "ViTEmbeddings",
    "swin": "SwinRelativePositionBias",
    "clip": "CLIPVisionEmbeddings",
    "dinov2": "Dinov2Embeddings",
    "convnext": "ConvNextLayerNorm",
}
# XLNet has the rows in its second dimension, Swin folds windows into the first: adapters see other rows than patients.
REFUSED_ADAPTERS = {"xlnet": "rows of a batch", "swin": "rows of a batch"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoders")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of configurations that transformers would like otherwise
        return {kind: (save_text_encoder if kind in TEXT else save_image_encoder)(root / kind, kind) for kind in KINDS}


@pytest.fixture
def compose(tiny_overrides, folders, tmp_path):
    def make(kind, part, *overrides):
        tower, other = ("text", "image") if kind in TEXT else ("image", "text")
        base = [each for each in tiny_overrides(tmp_path) if not each.startswith("model") and "image.size" not in each]
        option = "lora" if part == "adapters" else "pretrained"
        chosen = [f"model/text={option}", "model.text.max_length=16"]
        if tower == "image":
            suffix = "_lora" if part == "adapters" else ""
            chosen = [f"model/image=pretrained{suffix}", "model.image.normalization=imagenet"]
        chosen += [f"model.{tower}.pretrained='{folders[kind]}'", f"model.{other}=null", "data.image.size=32"]
        chosen += [f"model.{tower}.train=all"] if part == "whole" else []
        chosen += [f"model.{tower}.lora.rank=2"] if part == "adapters" else []
        return OmegaConf.to_object(compose_config([*base, *chosen, *overrides]))

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_every_encoder_loads_and_trains(compose, kind):
    config = compose(kind, "whole")
    check_model(config)
    model = build_model(config.model, config.data, 0)
    trained = [name for name in list_trained_arrays(model) if ".encoder.network." in name]
    batch, _ = make_check_batch(model, make_blank_examples(model, config), config.data.task.kind, 1)
    compute_row_losses(model.train()(batch), batch["targets"], config.data.task.kind).sum().backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}
    assert len(moved & set(trained)) > len(trained) / 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", ["frozen", "adapters", "whole"])
def test_every_encoder_trains_privately_or_is_refused_with_the_layer(compose, kind, part):
    config = compose(kind, part, "privacy=patient", "privacy.min_cohort=2")
    refused = {"whole": REFUSED_WHOLE, "adapters": REFUSED_ADAPTERS}.get(part, {})
    if kind in refused:
        with pytest.raises(PrivacyError, match=refused[kind]):
            check_model(config)
    else:
        check_model(config)


@pytest.mark.parametrize("kind", ["vit", "clip", "dinov2"])
def test_other_sizes_get_interpolated_positions_and_too_small_ones_are_refused(compose, kind):
    check_model(compose(kind, "frozen", "data.image.size=48"))
    with pytest.raises(ModelError, match=r"does not read images of 1 x 4 x 4 pixels.*") as caught:
        check_model(compose(kind, "frozen", "data.image.size=4"))
    assert "data.image.size" in caught.value.advice


def test_a_size_that_a_torchvision_network_does_not_read_is_refused(tiny_overrides, tmp_path):
    base = [each for each in tiny_overrides(tmp_path) if not each.startswith("model")]
    chosen = ["model/image=resnet18", "model.image.architecture=vit_b_32", "model.text=null"]
    with pytest.raises(ModelError, match="does not read images of 1 x 16 x 16 pixels"):
        check_model(OmegaConf.to_object(compose_config([*base, *chosen])))


def test_batch_norm_with_batches_of_one_row_is_refused(tiny_overrides, tmp_path):
    base = [each for each in tiny_overrides(tmp_path) if not each.startswith("model")]
    chosen = ["model/image=resnet18", "model.text=null", "training.batch_size=1", "data.image.size=32"]
    base = [each for each in base if not each.startswith(("training.batch", "data.image.size"))]
    with pytest.raises(ConfigError, match="normalizes over the batch"):
        check_model(OmegaConf.to_object(compose_config([*base, *chosen])))


def test_weights_that_are_not_finite_are_refused(compose, folders, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save_text_encoder(tmp_path / "broken", "bert")
    arrays = load_file(folder / "model.safetensors")
    arrays["embeddings.LayerNorm.weight"] *= torch.inf
    save_file(arrays, folder / "model.safetensors", {"format": "pt"})
    config = compose("bert", "frozen", f"model.text.pretrained='{folder}'")
    config.model.text["pretrained"] = str(folder)
    with pytest.raises(ModelError, match=r"model\.text: the encoder gives values that are not finite"):
        check_model(config)


def test_the_check_draws_nothing_and_changes_nothing(compose):
    config = compose("bert", "adapters", "privacy=patient", "privacy.min_cohort=2")
    before, numbers = torch.get_rng_state(), np.random.get_state()[1].tolist()
    check_model(config)
    assert torch.equal(before, torch.get_rng_state())
    assert numbers == np.random.get_state()[1].tolist()
