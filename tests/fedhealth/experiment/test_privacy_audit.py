"""`fedhealth audit`: right training passes, planted bugs end with exit code 6, and the report shows the result."""

import json
import re

import pytest
import torch

from fedhealth.cli.main import main
from fedhealth.errors import ConfigError, PrivacyError
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.privacy.engines.base import ClippedBatch, add_to_summed_grad, get_trainable_parameters
from fedhealth.privacy.engines.book_keeping import BookKeepingEngine
from fedhealth.privacy.engines.oracle import OracleEngine
from fedhealth.privacy.engines.step import take_private_step
from fedhealth.runs.run_dir import RunDir
from fedhealth.training.dpsgd_trainer import ENGINES
from tests.fedhealth.privacy.toys import clear_summed_grads

SMALL = ("privacy=patient", "privacy.min_cohort=5", "model.image=null", "training.threads=1", "training.batch_size=4")


class ForgottenClip(BookKeepingEngine):
    """Adds the plain sum of the gradients."""

    def accumulate(self, batch, patients):
        loss = self._loss_fn(self._model, batch)
        loss.sum().backward()
        for parameter in get_trainable_parameters(self._model).values():
            if parameter.grad is not None:
                add_to_summed_grad(parameter, parameter.grad)
                parameter.grad = None
        return ClippedBatch(loss.detach(), torch.zeros(0))


class CoupledLoss(BookKeepingEngine):
    """What ghost clipping does with a loss [B, 1]: times factors [B] it is [B, B], each is scaled by all."""

    def accumulate(self, batch, patients):
        norms = OracleEngine(self._model, self._loss_fn, self._clipping).accumulate(batch, patients).norms
        clear_summed_grads(self._model)
        factors = self._clipping.compute_factors(norms.square()[:, None])[:, 0]
        losses = self._loss_fn(self._model, batch)
        owner = torch.unique(torch.tensor(patients), return_inverse=True)[1]
        each = torch.zeros(len(norms)).index_add_(0, owner, losses)
        (each[:, None] * factors).sum().backward()
        for parameter in get_trainable_parameters(self._model).values():
            if parameter.grad is not None:
                add_to_summed_grad(parameter, parameter.grad)
                parameter.grad = None
        return ClippedBatch(losses.detach(), norms)


def doubled_step(engine, optimizer, physical):
    """Step once with noise and once more without."""
    kept = list(physical)
    losses = take_private_step(engine, optimizer, kept)
    for batch, patients in kept:
        engine.accumulate(batch, patients)
    for parameter in optimizer.params:
        total = parameter.summed_grad
        parameter.grad = None if total is None else total / optimizer.expected_batch_size
    optimizer.original_optimizer.step()
    return losses


def noise_where_touched(engine, optimizer, physical):
    """Leave the rows of embeddings that no patient touched without noise: they tell which words nobody has."""
    tables = [p for p in optimizer.params if p.dim() == 2 and len(p) > 16]
    before = [p.detach().clone() for p in tables]
    kept = list(physical)
    for batch, patients in kept:
        engine.accumulate(batch, patients)
    touched = [p.summed_grad.abs().sum(1) > 0 for p in tables]
    losses = take_private_step(engine, optimizer, kept)
    with torch.no_grad():
        for parameter, start, rows in zip(tables, before, touched, strict=True):
            parameter[~rows] = start[~rows]
    return losses


@pytest.fixture
def overrides(good_hospitals, tiny_overrides):
    return [*tiny_overrides(good_hospitals), *SMALL, "data.sites=[north]"]


@pytest.fixture
def command(monkeypatch, capfd):
    """`command(*overrides)`: exit code and output of `fedhealth audit`."""

    def call(*overrides):
        monkeypatch.setattr("sys.argv", ["fedhealth", "audit", *map(str, overrides)])
        with pytest.raises(SystemExit) as stopped:
            main()
        shown = capfd.readouterr()
        return stopped.value.code, shown.out + shown.err

    return call


def test_a_right_configuration_passes(command, overrides):
    code, shown = command("quick", *overrides)
    assert code == 0, shown
    assert "north: 4 checks of a training step passed" in shown


def test_a_finished_run_is_audited_into_its_report(command, overrides, tmp_path):
    run = RunDir(tmp_path / "run")
    launch_run(RunSpec.compose(overrides, run))
    code, shown = command("standard", run.path)
    assert code == 0, shown
    assert "north: 5 checks of a training step passed" in shown  # the ledger is one of them
    claimed = r"north: canaries: claimed epsilon (8|7\.9\d) at delta 1e-6, empirical lower bound"
    assert re.search(claimed, shown)
    assert "north: membership: claimed epsilon" in shown
    stored = json.loads((run.path / "audit.json").read_text())
    assert stored["sites"][0]["passed"]
    assert "empirical lower bound" in (run.path / "report.html").read_text()


@pytest.mark.parametrize("engine", [ForgottenClip, CoupledLoss])
def test_an_engine_that_breaks_the_bound_is_found(command, overrides, monkeypatch, engine):
    monkeypatch.setitem(ENGINES, "bk", engine)
    code, shown = command("quick", *overrides)
    assert code == PrivacyError.exit_code
    assert "removing one patient moves the sum by at most the bound: FAILED" in shown
    assert "The audit failed at north" in shown


@pytest.mark.parametrize("step", [doubled_step, noise_where_touched])
def test_a_step_that_moves_weights_without_noise_is_found(command, overrides, monkeypatch, step):
    monkeypatch.setattr("fedhealth.training.dpsgd_trainer.take_private_step", step)
    code, shown = command("quick", *overrides)
    assert code == PrivacyError.exit_code
    assert "the model moved by the noised sums and nothing else: FAILED" in shown


def test_the_standard_audit_tells_how_much_a_forgotten_clip_leaks(command, overrides, monkeypatch):
    monkeypatch.setitem(ENGINES, "bk", ForgottenClip)
    code, shown = command("standard", *overrides, "privacy.epsilon=1", "privacy.delta=1e-6")
    assert code == PrivacyError.exit_code
    [line] = [line for line in shown.splitlines() if "canaries: claimed epsilon" in line]
    assert float(line.split("lower bound ")[1].split()[0]) > 1


def test_a_ledger_that_was_edited_is_found(command, overrides, tmp_path):
    run = RunDir(tmp_path / "run")
    launch_run(RunSpec.compose(overrides, run))
    [ledger] = (run.path / "sites" / "north" / "privacy").glob("*.jsonl")
    ledger.write_bytes(ledger.read_bytes().replace(b'"steps":2', b'"steps":1'))
    code, shown = command("quick", run.path)
    assert code == PrivacyError.exit_code
    assert "the ledger is whole and adds up: FAILED" in shown


def test_what_cannot_be_audited_is_refused(command, overrides, tmp_path):
    plain = [override for override in overrides if not override.startswith("privacy")]
    assert command("quick", *plain)[0] == PrivacyError.exit_code
    assert command("deep", *overrides)[0] == ConfigError.exit_code
    assert command("quick", tmp_path)[0] == ConfigError.exit_code
