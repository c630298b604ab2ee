"""The command line of `fedhealth run` and `fedhealth demo`."""

import pytest

from fedhealth.cli.run import put_flags_first, run_demo
from fedhealth.config.validate import validate_config
from fedhealth.errors import ConfigError


@pytest.mark.parametrize(
    ("arguments", "ordered"),
    [
        ("a=1 --multirun seed=0,1", "--multirun a=1 seed=0,1"),
        ("a=1 --cfg job b=2", "--cfg job a=1 b=2"),
        ("a=1 -cd folder b=2 -m", "-cd folder -m a=1 b=2"),
        ("a=1 --config-dir=folder ~b", "--config-dir=folder a=1 ~b"),
        ("--help", "--help"),
    ],
)
def test_flags_may_stand_anywhere(arguments, ordered):
    assert put_flags_first(arguments.split()) == ordered.split()


@pytest.fixture(name="demo")
def demo_(tmp_path, monkeypatch):
    """Run the demo without its work; return its configuration."""
    seen = []
    monkeypatch.setattr("fedhealth.cli.run._write_hospitals", lambda folder, _: folder.mkdir(parents=True))
    monkeypatch.setattr("fedhealth.experiment.warm_workers.prepare_workers", lambda *_: None)
    monkeypatch.setattr("fedhealth.cli.run.launch_with_progress", lambda spec: seen.append(spec.config))

    def run(*arguments):
        run_demo(tmp_path, 7, arguments)
        validate_config(seen[-1])
        return seen[-1]

    return run


def test_the_demo_protects_every_patient_unless_told_otherwise(demo):
    private = demo()
    assert (private.privacy.unit, private.privacy.epsilon, private.secagg.lead._target_) == (
        "patient",
        8.0,
        "strategies.aggregation.secure.SecureSum",
    )
    assert demo("privacy.epsilon=3").privacy.epsilon == 3.0
    assert demo("privacy=none").privacy == {"_target_": "fedhealth.training.trainer.PlainTrainer"}
    assert demo("privacy=record").privacy.unit == "record"


def test_a_misspelt_word_is_told_before_hospitals_are_written(demo, tmp_path):
    with pytest.raises(ConfigError, match="epsilom"):
        demo("privacy.epsilom=3")
    assert not (tmp_path / "hospitals").exists()
