"""`fedhealth audit`: right training passes, planted bugs end with exit code 6, and the report shows the result."""

import json
import re

import pytest
import torch

from fedhealth.cli.main import main
from fedhealth.errors import ConfigError, PrivacyError
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.privacy_audit import SiteAudit, describe_failures, format_audit
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.privacy.auditing.membership import EpsilonLowerBound
from fedhealth.privacy.auditing.release_checks import AuditFinding
from fedhealth.privacy.engines.base import ClippedBatch, add_to_summed_grad, get_trainable_parameters
from fedhealth.privacy.engines.book_keeping import BookKeepingEngine
from fedhealth.privacy.engines.oracle import OracleEngine
from fedhealth.privacy.engines.step import take_private_step
from fedhealth.runs.run_dir import RunDir
from fedhealth.training.dpsgd_plans import ENGINES
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
    assert re.search(r"north: \d+ checks of its private training passed", shown)


def test_a_rehearsal_is_audited_by_itself_into_its_report(command, overrides, tmp_path):
    run = RunDir(tmp_path / "run")
    launch_run(RunSpec.compose([*overrides, "evaluation.audit=true"], run))
    [site] = json.loads((run.path / "audit.json").read_text())["sites"]
    assert site["passed"]
    assert 0.5 < site["success"] < 1
    assert {"the ledger is whole and adds up", "patients are drawn independently"} <= {
        each["name"] for each in site["findings"]
    }
    page = (run.path / "report.html").read_text()
    assert "What the audit found" in page
    assert "a coin toss is right in" in page
    code, shown = command("standard", run.path)
    assert code == 0, shown
    assert "north: membership (claimed epsilon" in shown


def test_too_few_patients_for_the_membership_test_do_not_end_a_run(overrides, tmp_path, monkeypatch):
    monkeypatch.setattr("fedhealth.experiment.privacy_audit.FEWEST_PATIENTS", 10_000)
    run = RunDir(tmp_path / "run")
    launch_run(RunSpec.compose([*overrides, "evaluation.audit=true"], run))
    assert run.info.state == "completed"
    [site] = json.loads((run.path / "audit.json").read_text())["sites"]
    assert site["passed"]
    assert site["bounds"] == {}
    assert "it needs 10000 training patients and 10000 test patients" in site["skipped"]
    assert "evaluation.audit=false" in (run.path / "report.html").read_text()
    [caution] = [e for e in run.read_events()[0] if e["event"] == "caution" and "skipped" in e["title"]]
    assert caution["text"] == site["skipped"]


def test_a_rehearsal_whose_audit_fails_says_so(overrides, tmp_path, monkeypatch):
    monkeypatch.setitem(ENGINES, "bk", ForgottenClip)
    for module in ("dpsgd_trainer", "check_model"):  # these would find it before the audit
        monkeypatch.setattr(f"fedhealth.training.{module}.run_self_check", lambda *_: None)
    run = RunDir(tmp_path / "run")
    with pytest.raises(PrivacyError, match=r"The audit failed: north: .+ \("):
        launch_run(RunSpec.compose([*overrides, "evaluation.audit=true"], run))
    assert "The audit FAILED at north" in (run.path / "report.html").read_text()


@pytest.mark.parametrize("engine", [ForgottenClip, pytest.param(CoupledLoss, marks=pytest.mark.long)])
def test_an_engine_that_breaks_the_bound_is_found(command, overrides, monkeypatch, engine):
    monkeypatch.setitem(ENGINES, "bk", engine)
    code, shown = command("quick", *overrides)
    assert code == PrivacyError.exit_code
    assert "FAILED: one patient's contribution: all together (" in shown
    assert "The audit failed: north: " in shown


@pytest.mark.parametrize("step", [pytest.param(doubled_step, marks=pytest.mark.long), noise_where_touched])
def test_a_step_that_moves_weights_without_noise_is_found(command, overrides, monkeypatch, step):
    monkeypatch.setattr("fedhealth.training.dpsgd_trainer.take_private_step", step)
    code, shown = command("quick", *overrides)
    assert code == PrivacyError.exit_code
    assert "FAILED: the model moves by the released sums only (" in shown


def test_a_ledger_that_was_edited_is_found(command, overrides, tmp_path):
    run = RunDir(tmp_path / "run")
    launch_run(RunSpec.compose(overrides, run))
    [ledger] = (run.path / "sites" / "north" / "privacy").glob("*.jsonl")
    ledger.write_bytes(ledger.read_bytes().replace(b'"steps":2', b'"steps":1'))
    code, shown = command("quick", run.path)
    assert code == PrivacyError.exit_code
    assert "FAILED: the ledger is whole and adds up (" in shown


def test_what_cannot_be_audited_is_refused(command, overrides, tmp_path):
    plain = [override for override in overrides if not override.startswith("privacy")]
    assert command("quick", *plain)[0] == PrivacyError.exit_code
    assert command("deep", *overrides)[0] == ConfigError.exit_code
    assert command("quick", tmp_path)[0] == ConfigError.exit_code


def test_a_failure_is_worded_alike_in_the_list_and_in_the_error():
    findings = (AuditFinding("the noise is whole", False, "half of it"), AuditFinding("it is fresh", True, "it is"))
    bounds = {"membership": EpsilonLowerBound(1.0, 9.0, 1e-6, 0.95), "other": EpsilonLowerBound(1.0, 0.5, 1e-6, 0.95)}
    result = SiteAudit("north", "patient", findings, bounds, 0.7)
    listed = [line.removeprefix("north: FAILED: ") for line in format_audit(result) if "FAILED" in line]
    assert listed[0] == "the noise is whole (half of it)"
    assert describe_failures(result) == f"north: {', '.join(listed)}"
    assert len(listed) == 2
    assert not [line for line in format_audit(result) if "other" in line and "FAILED" in line]
