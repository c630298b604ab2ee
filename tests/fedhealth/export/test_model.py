import json
import shutil
import sys

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.numpy import load_file, save_file

import fedhealth
from fedhealth.config.compose import compose_config
from fedhealth.data.manifest import SPLITS, read_manifest
from fedhealth.errors import ConfigError, ModelError
from fedhealth.experiment.baselines import BaselineData
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.export.known_targets import list_known_targets
from fedhealth.export.model import load_model, save_model
from fedhealth.export.predict import read_studies, score_studies
from fedhealth.models.model_state import get_model_arrays, list_trained_arrays, set_model_arrays
from fedhealth.models.multimodal import build_model
from fedhealth.runs.run_dir import MODEL_DIR, PERSONAL_FILE, RunDir
from tests.tiny_encoders import save_image_encoder, save_text_encoder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of the exported model, elsewhere."""
    return shutil.copytree(finished[0].path / MODEL_DIR, tmp_path / "moved")


def test_predictions_from_files_are_those_of_the_model_in_memory(finished, folder):
    run, config = finished
    bench = BaselineData.prepare(config)
    set_model_arrays(bench.model, load_file(run.path / "model.safetensors"))
    expected = bench.predict()
    exported = load_model(folder)
    for site in config.data.sites:
        path = read_manifest(config.data, site).path
        ids, studies = read_studies(path, exported.data)
        held = bench.cohorts[site].split == SPLITS.index("test")
        chosen = [(key.replace(" ", "|"), place) for place, key in enumerate(ids) if held[place]]
        in_order = [studies[index] for _, index in sorted(chosen)]  # the order of studies in a site's dataset
        scores = score_studies(exported, in_order)
        assert len(scores) == len(expected[site].scores) > 0
        np.testing.assert_allclose(scores, expected[site].scores, atol=1e-6)


def test_nothing_in_it_names_this_machine(finished, folder, good_hospitals):
    said = (folder / "config.json").read_text()
    assert str(good_hospitals) not in said
    assert str(finished[0].path) not in said


@pytest.mark.parametrize(
    ("part", "value"),
    [
        (("model", "image", "_target_"), ["os.system"]),
        (("model", "image", "_args_"), ["x"]),
        (("data", "name"), "${oc.env:HOME}"),
        (("data", "tabular"), {"${oc.env:HOME}": {}}),
    ],
)
def test_code_and_interpolation_are_refused(folder, part, value):
    content = node = json.loads((folder / "config.json").read_text())
    for key in part[:-1]:
        node = node[key]
    node[part[-1]] = value
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match="no export writes"):
        load_model(folder)


@pytest.fixture(name="own_parts")
def own_parts_(tmp_path, monkeypatch):
    """A folder of configuration files that names an encoder of an own package; its module notes when it is imported."""
    (tmp_path / "own_encoders.py").write_text(
        f"open({str(tmp_path / 'imported')!r}, 'w').close()\n"
        "from fedhealth.models.encoders.tabular import TabularEncoder as Own\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    option = tmp_path / "conf" / "model" / "tabular" / "own.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("_target_: 'own_encoders.Own'  # quoted, with a comment\nhidden: 4\n")
    yield tmp_path / "conf"
    sys.modules.pop("own_encoders", None)


def name_encoder(folder, target):
    content = json.loads((folder / "config.json").read_text())
    content["model"]["tabular"]["_target_"] = target
    (folder / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize("target", ["os.system", "fedhealth.models.encoders.image.Path", "own_encoders.Own"])
def test_a_class_that_nobody_here_named_is_not_imported(folder, own_parts, target):
    name_encoder(folder, target)
    with pytest.raises(ModelError, match=rf"names '{target}', which no installed option names.*\n.*--config-dir"):
        load_model(folder)
    assert not (own_parts.parent / "imported").exists()


def test_the_models_own_folder_cannot_name_a_class(folder, own_parts, monkeypatch):
    name_encoder(folder, "own_encoders.Own")
    shutil.copytree(own_parts, folder / "conf")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"config_dir": str(folder / "conf")}))
    (folder.parent / "run.json").write_text(json.dumps({"state": "completed", "config_dir": str(folder / "conf")}))
    monkeypatch.chdir(folder)
    with pytest.raises(ModelError, match="no installed option"):
        load_model(folder)
    shutil.move(folder, folder.parent / "model")
    with pytest.raises(ModelError, match="no installed option"):
        _ = fedhealth.load_run(folder.parent).model
    assert not (own_parts.parent / "imported").exists()


def test_a_class_of_a_named_folder_is_loaded(folder, own_parts):
    name_encoder(folder, "own_encoders.Own")
    exported = load_model(folder, config_dir=own_parts)
    assert type(exported.model.towers["tabular"].encoder).__name__ == "TabularEncoder"
    assert (own_parts.parent / "imported").exists()


@pytest.mark.parametrize("other", ["strategy/aggregation", "experiment"])
def test_a_class_of_another_kind_of_part_is_no_part_of_a_model(folder, own_parts, other):
    place = own_parts / other / "own.yaml"
    place.parent.mkdir(parents=True)
    place.write_text("_target_: os.system\nmodel:\n  image:\n    _target_: own_encoders.Image\n")
    name_encoder(folder, "os.system")
    with pytest.raises(ModelError, match=r"no file below .*conf names"):
        load_model(folder, config_dir=own_parts)
    assert "own_encoders.Image" in list_known_targets(own_parts)  # of the section `model` of an own file


def test_a_folder_that_is_none_is_named(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"There is no folder .*nowhere"):
        load_model(folder, config_dir=tmp_path / "nowhere")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "a.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match=r"a.yaml is not YAML"):
        load_model(folder, config_dir=tmp_path / "conf")


@pytest.mark.parametrize("spoil", ["absent", "format", "cut", "damaged", "shape", "type"])
def test_a_spoilt_folder_says_what_is_wrong(folder, spoil):
    config, weights = folder / "config.json", folder / "model.safetensors"
    content, arrays = json.loads(config.read_text()), load_file(weights)
    if spoil == "absent":
        config.unlink()
    elif spoil == "format":
        config.write_text(json.dumps(content | {"format": 99}))
    elif spoil == "type":
        config.write_text(json.dumps(content | {"data": content["data"] | {"image": {"size": "wide"}}}))
    elif spoil == "cut":
        save_file({name: array for name, array in arrays.items() if "fusion" not in name}, weights)
    elif spoil == "shape":
        save_file(arrays | {"fusion.head.bias": np.zeros(7, np.float32)}, weights)
    else:
        weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError):
        load_model(folder)


def test_a_pretrained_text_encoder_travels_with_its_tokenizer(encoder_saver, tmp_path):
    overrides = [
        "data.root=x",
        "model/text=lora",
        f"model.text.pretrained={encoder_saver(tmp_path / 'bert')}",
        "model.image=null",
    ]
    config = compose_config(overrides)
    typed = OmegaConf.to_object(config)
    model = build_model(typed.model, typed.data, typed.seed)
    generator = np.random.default_rng(0)
    names = list_trained_arrays(model)
    shared = {n: generator.normal(size=a.shape).astype(np.float32) for n, a in get_model_arrays(model, names).items()}
    save_model(config, shared, tmp_path / "model")
    shutil.rmtree(tmp_path / "bert")
    exported = load_model(shutil.move(tmp_path / "model", tmp_path / "elsewhere"))
    set_model_arrays(model, shared)
    for name, array in get_model_arrays(model, list(model.state_dict())).items():
        assert np.array_equal(array, exported.model.state_dict()[name].numpy()), name
    held = load_file(tmp_path / "elsewhere" / "model.safetensors")
    assert not any("embeddings.word" in name for name in held)  # it lies in the encoder's own file
    text = exported.model.towers["text"].encoder
    assert text.tokenize(["better today"]).shape == (1, 2)
    with torch.inference_mode():
        assert text(torch.tensor([[2, 4]])).shape == (1, 8)


@pytest.mark.parametrize("part", ["alone", "adapters", "side by side"])
def test_pretrained_encoders_of_images_travel_too(tmp_path, part):
    folder = save_image_encoder(tmp_path / "vit", "vit")
    text = save_text_encoder(tmp_path / "t5", "t5")
    options = {"alone": "pretrained", "adapters": "pretrained_lora", "side by side": "concat"}
    place = "model.image.encoders.second" if part == "side by side" else "model.image"
    config = compose_config(
        ["data.root=x", f"model/image={options[part]}", "data.image.size=32", "model/text=pretrained"]
    )
    OmegaConf.update(config, f"{place}.pretrained", str(folder))
    OmegaConf.update(config, f"{place}.normalization", "imagenet", force_add=True)
    if part == "side by side":
        OmegaConf.update(config, "model.image.encoders.first.architecture", "small_cnn")
        OmegaConf.update(config, "model.image.encoders.first.weights", None)
        OmegaConf.update(config, "model.image.encoders.first.train", "all")
    OmegaConf.update(config, "model.text.pretrained", str(text))
    typed = OmegaConf.to_object(config)
    model = build_model(typed.model, typed.data, typed.seed).eval()
    save_model(config, get_model_arrays(model, list_trained_arrays(model)), tmp_path / "model")
    for gone in (folder, text):
        shutil.rmtree(gone)
    exported = load_model(shutil.move(tmp_path / "model", tmp_path / "elsewhere"))
    assert str(tmp_path) not in (tmp_path / "elsewhere" / "config.json").read_text()
    grey = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)
    words = torch.from_numpy(model.towers["text"].encoder.tokenize(["worse today", "better"]))
    with torch.inference_mode():
        for name, values in (("image", grey), ("text", words)):
            found, expected = (each.towers[name].encoder(values) for each in (exported.model, model))
            torch.testing.assert_close(found, expected)


def test_a_model_that_lives_at_the_hospitals_needs_their_part(tiny_overrides, good_hospitals, tmp_path):
    overrides = [*tiny_overrides(good_hospitals), "personalization=fedper", "strategy.rounds=1"]
    run = RunDir(tmp_path / "run")
    launch_run(RunSpec.compose(overrides, run))
    with pytest.raises(ModelError, match="stored at each hospital"):
        load_model(run.path / MODEL_DIR)
    own = run.site_dir("north") / PERSONAL_FILE
    exported = load_model(run.path / MODEL_DIR, own)
    for name, array in load_file(own).items():
        assert np.array_equal(exported.model.state_dict()[name].numpy(), array)
    said = f"**This is only the shared part of the model.** {len(load_file(own))} arrays"
    assert said in (run.path / MODEL_DIR / "README.md").read_text()
