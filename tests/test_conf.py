"""Every option of every configuration group composes, is valid and builds: a new yaml file is tested by being there."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from fedhealth.config.compose import compose_config, compute_config_digest, get_conf_dir, resolve_config
from fedhealth.config.instantiate import instantiate
from fedhealth.config.schema import Config
from fedhealth.config.validate import validate_config
from tests.tiny_encoders import save_image_encoder

NOT_GROUPS = {"config"}  # the root file
ADAPTED = ["model/text=lora"]
NEEDS = {  # options that the default model has nothing for
    ("personalization", "adapters"): ADAPTED,
    ("personalization", "ffa_lora"): ADAPTED,
    ("specialized", "derm_patient"): ["experiment=derm", "privacy=patient"],
    ("specialized", "generic_patient"): ["privacy=patient"],
    ("model/image", "pretrained"): ["model.image.normalization=imagenet"],
    ("model/image", "pretrained_lora"): ["model.image.normalization=imagenet"],
    ("model/image", "concat"): ["model.image.encoders.second.normalization=imagenet"],
    ("specialized", "heart_patient"): ["experiment=heart", "privacy=patient"],
    ("strategy/server_optimizer", "training"): ["training.sends=gradient", "training.local_steps=1"],
    **{("strategy/aggregation", name): ["secagg=off"] for name in ("median", "trimmed_mean", "krum", "multi_krum")},
}


def options() -> Iterator[tuple[str, str]]:
    """Yield (group, option) for every yaml file below conf/."""
    for path in sorted(get_conf_dir().rglob("*.yaml")):
        group, option = path.relative_to(get_conf_dir()).parent.as_posix(), path.stem
        if group != "." or option not in NOT_GROUPS:
            yield group, option


@pytest.fixture(scope="module")
def mandatory(tmp_path_factory, encoder_saver):
    """The mandatory keys: (overrides that make `key` mandatory, the override that sets it)."""
    import torch
    from safetensors.torch import save_file
    from torchvision.models import get_model

    folder = tmp_path_factory.mktemp("conf")
    torch.manual_seed(0)
    save_file(get_model("mobilenet_v2", weights=None).state_dict(), folder / "mobilenet_v2.safetensors")
    encoder_saver(folder / "bert")
    save_image_encoder(folder / "vit", "vit")
    weights = "mobilenet_v2.safetensors"
    places = {"pretrained": "vit", "encoders.first.weights": weights, "encoders.second.pretrained": "vit"}
    vision = {f"model.image.{key}": f"model.image.{key}={folder / name}" for key, name in places.items()}
    return vision | {
        "data.root": f"data.root={folder}",
        "model.image.weights": f"model.image.weights={folder / 'mobilenet_v2.safetensors'}",
        "model.text.pretrained": f"model.text.pretrained={folder / 'bert'}",
    }


def filled(overrides, mandatory):
    """Compose, giving a value to every key that the overrides leave mandatory."""
    missing = OmegaConf.missing_keys(compose_config(overrides))
    assert missing <= mandatory.keys(), "give tests/test_conf.py a value for the new mandatory key"
    return compose_config([*overrides, *(mandatory[key] for key in sorted(missing))])


def nodes(value) -> Iterator[dict]:
    """Yield the outermost nodes that name a target."""
    if isinstance(value, dict) and "_target_" in value:
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from nodes(inner)


@pytest.mark.parametrize(("group", "option"), [pytest.param(*pair, id="/".join(pair)) for pair in options()])
def test_every_option_composes_is_valid_and_builds(group, option, mandatory):
    from fedhealth.models.multimodal import build_model

    config = filled([f"{group}={option}", *NEEDS.get((group, option), [])], mandatory)
    validate_config(config)
    typed = OmegaConf.to_object(config)
    assert isinstance(typed, Config)
    assert len(compute_config_digest(config)) == 64
    plain = resolve_config(config)
    parameters = [*build_model(typed.model, typed.data, typed.seed).parameters()]
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    assert trained
    assert instantiate(plain["training"]["optimizer"])(trained).param_groups
    for part in ("data", "privacy", "secagg", "personalization", "strategy", "runtime"):
        built = [instantiate(node) for node in nodes(plain[part])]
        assert all(part is not None for part in built)
        assert built or part == "privacy", part


def test_the_options_are_all_found():
    found = set(options())
    assert {("data", "demo"), ("model/text", "words"), ("strategy/server_optimizer", "avg")} <= found
    assert all(Path(group).name != "conf" for group, _ in found)


def test_no_yaml_is_called_an_experiment_without_being_global():
    for path in sorted((get_conf_dir() / "experiment").glob("*.yaml")):
        assert path.read_text("utf-8").startswith("# @package _global_"), path


def test_a_pair_with_a_file_of_its_own_gets_it_unless_told_otherwise():
    given = ["data.root=x", "model.image.weights=x"]
    assert compose_config(["experiment=derm", "privacy=patient", *given]).model.dim is None
    assert compose_config(["experiment=derm", "privacy=patient", "specialized=none", *given]).model.dim == 48
    assert compose_config(["experiment=derm", *given]).model.dim == 48
    assert compose_config(["experiment=derm", "privacy=patient", "model.dim=7", *given]).model.dim == 7


def test_every_pair_exists():
    pairs = {
        f"{a}_{b}" for group, a in options() for other, b in options() if (group, other) == ("experiment", "privacy")
    }
    assert {option for group, option in options() if group == "specialized"} - {"none", "generic_patient"} <= pairs
