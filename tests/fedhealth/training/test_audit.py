"""`fedhealth audit`: right training passes, planted bugs end with exit code 6, and the report shows the result."""

import json

import pytest
import torch

from fedhealth.cli.main import main
from fedhealth.config.compose import compose
from fedhealth.errors import ConfigError, PrivacyError
from fedhealth.launch import launch
from fedhealth.privacy.bk import BookKeeping
from fedhealth.privacy.engine import Clipped, add_to, trainable
from fedhealth.rundir import RunDir
from fedhealth.training.private import ENGINES

SMALL = ("privacy=patient", "privacy.min_cohort=5", "model.image=null", "training.threads=1", "training.batch_size=4")


class ForgottenClip(BookKeeping):
    """Adds the plain sum of the gradients."""

    def accumulate(self, batch, patients):
        loss = self._loss_fn(self._model, batch)
        loss.sum().backward()
        for parameter in trainable(self._model).values():
            if parameter.grad is not None:
                add_to(parameter, parameter.grad)
                parameter.grad = None
        return Clipped(loss.detach(), torch.zeros(0))


@pytest.fixture
def words(good_hospitals, tiny_words):
    return [*tiny_words(good_hospitals), *SMALL, "data.sites=[north]"]


@pytest.fixture
def command(monkeypatch, capfd):
    """`command(*words)`: exit code and output of `fedhealth audit`."""

    def call(*words):
        monkeypatch.setattr("sys.argv", ["fedhealth", "audit", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        shown = capfd.readouterr()
        return stopped.value.code, shown.out + shown.err

    return call


def test_a_right_configuration_passes(command, words):
    code, shown = command("quick", *words)
    assert code == 0, shown
    assert "north: 4 checks of a training step passed" in shown


def test_a_finished_run_is_audited_into_its_report(command, words, tmp_path):
    run = RunDir(tmp_path / "run")
    launch(compose(words), words, run)
    code, shown = command("standard", run.path)
    assert code == 0, shown
    assert "north: 5 checks of a training step passed" in shown  # the ledger is one of them
    assert "north: canaries: claimed epsilon 8, empirical lower bound" in shown.replace("7.99", "8")
    assert "north: membership: claimed epsilon" in shown
    stored = json.loads((run.path / "audit.json").read_text())
    assert stored["sites"][0]["passed"]
    assert "empirical lower bound" in (run.path / "report.html").read_text()


def test_a_forgotten_clip_is_found(command, words, monkeypatch):
    monkeypatch.setitem(ENGINES, "bk", ForgottenClip)
    code, shown = command("quick", *words)
    assert code == PrivacyError.exit_code
    assert "NOT SO" in shown
    assert "The audit found something at north" in shown


def test_what_cannot_be_audited_is_refused(command, words, tmp_path):
    plain = [word for word in words if not word.startswith("privacy")]
    assert command("quick", *plain)[0] == PrivacyError.exit_code
    assert command("deep", *words)[0] == ConfigError.exit_code
    assert command("quick", tmp_path)[0] == ConfigError.exit_code
