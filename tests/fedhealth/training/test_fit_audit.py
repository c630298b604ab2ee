"""The end-to-end audit passes right training of every kind, catches planted bugs, and declines a run by itself."""

import numpy as np
import pytest
import torch
from torchvision.ops import StochasticDepth

from benchmarks.audit_mutants import plant_mutant
from benchmarks.mutants.known import MUTANTS
from benchmarks.mutants.strangers import STRANGERS
from benchmarks.mutants.subject import ROUNDS, audit_subject, list_failures, make_subject
from fedhealth.data.examples import Examples
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.context import AccountingContext
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.training import audit_features, audit_gate, fit_audit
from fedhealth.training.fit_audit import audit_fit

SUBSET = (
    "noise halved",
    "clipping per study in the loader",
    "sampling without replacement",
    "a fixed noise key",
    "score histograms un-noised",
    "one booking per run",
    "epsilon halved in the accountant",
    "clip skipped for biases and norms",
    "small tensors without noise",
)
STRANGER_SUBSET = (
    "a seeded sampler",
    "one class not clipped",
    "noise seeded by run and round",
    "run limit not checked",
    "un-noised control variates",
)


def _mark_long(names, first):
    """Mark all but the first ones; `make audit-mutants` plants all bugs there are."""
    return [*names[:first], *(pytest.param(name, marks=pytest.mark.long) for name in names[first:])]


@pytest.fixture
def audit_before_runs():
    """Keep the audit before a run."""


def make_place(tmp_path):
    return AccountingContext("run", "hospital", tmp_path, 0, ROUNDS)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param({"clipping": "automatic"}, marks=pytest.mark.long),
        {"clipping": "tower"},
        {"unit": "record"},
        {"score_release_share": 0.0},
        pytest.param({"engine": "opacus"}, marks=pytest.mark.long),
        {"max_records_per_patient": 1},  # most patients have more: each step draws one of their studies
        pytest.param({"max_records_per_patient": 2}, marks=pytest.mark.long),
    ],
)
def test_right_training_passes_and_leaves_no_trace(settings, tmp_path):
    trainer, task = make_subject(**settings)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    findings = audit_fit(trainer, task, make_place(tmp_path))
    assert list_failures(findings) == []
    assert len(findings) > 20
    assert all(np.array_equal(value, before[name]) for name, value in task.model.state_dict().items())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("certainty", [30.0, 3000.0])
def test_a_model_that_is_certain_of_some_patients_passes(certainty, tmp_path):
    """Trained well, a model gives patients gradients that nearly vanish, or no gradient at all."""
    trainer, task = make_subject()
    with torch.no_grad():
        list(task.model.fusion.parameters())[-2].mul_(certainty)
    assert list_failures(audit_fit(trainer, task, make_place(tmp_path))) == []


def test_a_model_with_random_depth_passes(tmp_path):
    trainer, task = make_subject()
    task.model.fusion.head[2] = StochasticDepth(0.5, "row")
    assert list_failures(audit_fit(trainer, task, make_place(tmp_path))) == []


@pytest.mark.parametrize("name", _mark_long(SUBSET, 5))
def test_a_planted_bug_is_caught(name):
    with plant_mutant(MUTANTS[name]):
        assert list_failures(audit_subject())


@pytest.mark.parametrize("name", _mark_long(STRANGER_SUBSET, 3))
def test_a_bug_that_a_stranger_planted_is_caught(name):
    planter, settings = STRANGERS[name]
    with plant_mutant(planter):
        assert list_failures(audit_subject(**settings))


def test_there_are_twenty_bugs():
    assert len(MUTANTS) == 20


def leave_out_the_encoder(self, total, std, add=NoiseSource.add_):
    """Add noise to all tensors but those of the encoder of the audited hospital."""
    return total if total.shape[0] == 12 else add(self, total, std)


def test_large_encoders_run_a_few_times_and_have_noise(tmp_path, monkeypatch):
    monkeypatch.setattr(audit_features, "_LARGE", 100)
    trainer, task = make_subject()
    encoder, calls = type(task.model.towers["tabular"].encoder), []
    forward = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda self, values: calls.append(len(values)) or forward(self, values))
    findings = audit_fit(trainer, task, make_place(tmp_path))
    assert list_failures(findings) == []
    assert sum(calls) < 200  # rows; without the cache there are thousands
    assert any("encoder" in each.name and "whole model" in each.name for each in findings)
    with monkeypatch.context() as planted:
        planted.setattr(NoiseSource, "add_", leave_out_the_encoder)
        failures = list_failures(audit_fit(trainer, task, make_place(tmp_path)))
    assert any("encoder" in failure for failure in failures)


def test_a_site_declines_by_itself_and_no_patient_has_a_part_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr(audit_gate, "_failures", {})
    trainer, task = make_subject()
    with plant_mutant(MUTANTS["noise halved"]):
        [reason] = trainer.check_can_join(task, make_place(tmp_path))
    assert (
        reason == "private training fails its audit on synthetic patients (see site.log; in a rehearsal fedhealth.log)"
    )
    assert trainer.check_can_join(task, make_place(tmp_path)) == [reason]  # asking again gives no second chance
    audit_gate._failures.clear()  # another process
    assert trainer.check_can_join(task, make_place(tmp_path)) == []
    path = get_ledger_path(tmp_path, trainer.budget.dataset)
    assert not path.exists() or not path.read_bytes().strip()  # nothing was booked in the run's own ledger


def test_the_audit_before_a_run_reads_no_value_of_a_patient(tmp_path, monkeypatch):
    monkeypatch.setattr(audit_gate, "_failures", {})
    trainer, task = make_subject()
    read = []
    for name in ("batch", "targets"):
        gather = getattr(Examples, name)
        monkeypatch.setattr(Examples, name, lambda self, rows, gather=gather: read.append(self) or gather(self, rows))
    assert fit_audit.list_audit_failures(trainer, task, make_place(tmp_path)) == []
    own = task.examples
    assert read
    assert all(each.sources is not own.sources and each.labels is not own.labels for each in read)
