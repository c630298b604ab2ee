from omegaconf import OmegaConf

from fedhealth.config.compose import compose_config
from fedhealth.config.compose_once import compose_once

OVERRIDES = ["data.root=/data", "method=scaffold"]


def test_the_configuration_is_composed_as_elsewhere_and_once():
    config, choices = compose_once(OVERRIDES)
    assert OmegaConf.to_object(config) == OmegaConf.to_object(compose_config(OVERRIDES))
    assert choices["method"] == "scaffold"
    assert compose_once(tuple(OVERRIDES))[0] is config


def test_an_edit_of_the_folder_is_seen(tmp_path):
    file = tmp_path / "training" / "own.yaml"
    file.parent.mkdir()
    for steps in (2, 3):
        file.write_text(f"defaults: [sgd]\nlocal_steps: {steps}\n")
        config, _ = compose_once(["data.root=/data", "training=own"], tmp_path)
        assert config.training.local_steps == steps
