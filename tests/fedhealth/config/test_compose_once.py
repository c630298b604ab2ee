from omegaconf import OmegaConf

from fedhealth.config.compose import compose_config, compose_with_choices
from fedhealth.config.compose_once import compose_once, keep_composed

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


def test_what_is_composed_already_is_kept():
    overrides = ["data.root=/kept"]
    config, choices = compose_with_choices(overrides)
    keep_composed(overrides, config, choices)
    assert compose_once(overrides)[0] is config
    assert compose_once(overrides)[1] == choices


def test_a_process_keeps_a_bounded_number():
    config, choices = compose_with_choices(["data.root=/kept"])
    for number in range(100):
        keep_composed([f"name=kept-{number}"], config, choices)
    assert compose_once(["name=kept-99"])[0] is config
    assert compose_once(["name=kept-0"])[0] is not config
