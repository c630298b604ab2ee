"""A whole site's update, clipped and noised before it leaves."""

import numpy as np
import pytest

from fedhealth.config.instantiate import instantiate
from fedhealth.errors import PrivacyError
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.accounting.spending import iter_run_spending
from fedhealth.privacy.context import AccountingContext
from fedhealth.runs.run_dir import RunDir
from fedhealth.training.trainer import FitReport


@pytest.fixture
def trainer():
    return instantiate(
        {"_target_": "fedhealth.training.client_dp_trainer.ClientDPTrainer", "dataset": "demo", "epsilon": 4.0}
    )


def place(folder, number=1):
    return AccountingContext("run", "north", folder, number, 2)


@pytest.fixture(autouse=True)
def no_training(request, monkeypatch):
    if "good_hospitals" not in request.fixturenames:
        monkeypatch.setattr(
            "fedhealth.training.client_dp_trainer.fit_without_noise", lambda task, accounting: FitReport(1, 1, 0.5)
        )


def test_the_update_is_clipped_noised_and_booked(trainer, tmp_path):
    update = {"a": np.full((50, 40), 3.0, np.float32), "b": np.zeros(1000, np.float32)}
    trainer.fit(None, place(tmp_path))
    sent = trainer.protect_update(update, None, place(tmp_path))
    plan = trainer.make_plan(place(tmp_path))
    assert {name: value.shape for name, value in sent.items()} == {"a": (50, 40), "b": (1000,)}
    assert sent["b"].std() == pytest.approx(plan.noise_std, rel=0.15)
    assert abs(sent["a"].mean()) < 1  # its norm was 134, is at most 1 now
    assert update["a"].min() == 3.0
    [entry] = verify_ledger(get_ledger_path(tmp_path, "demo"))
    assert (entry.unit, entry.event) == ("client", plan.round_event)
    assert plan.epsilon <= 4


def test_beyond_the_run_nothing_leaves(trainer, tmp_path):
    update = {"a": np.ones(3, np.float32)}
    for number in (1, 2, 2):  # the spare round pays for a repetition
        trainer.fit(None, place(tmp_path, number))
        trainer.protect_update(update, None, place(tmp_path, number))
        digest = str(len(verify_ledger(get_ledger_path(tmp_path, "demo"))))
        trainer.record_release(place(tmp_path, number), digest)
        assert trainer.is_recorded_release(place(tmp_path, number), digest)
        with pytest.raises(PrivacyError, match="no open booking"):
            trainer.protect_update(update, None, place(tmp_path, number))
    with pytest.raises(PrivacyError, match="would exceed"):
        trainer.fit(None, place(tmp_path, 3))
    assert verify_ledger(get_ledger_path(tmp_path, "demo"))[-1].kind == "decline"


def test_training_is_booked_before_it_begins(trainer, tmp_path, monkeypatch):
    def fail(task, accounting):
        assert [entry.kind for entry in verify_ledger(get_ledger_path(tmp_path, "demo"))] == ["book"]
        raise MemoryError

    monkeypatch.setattr("fedhealth.training.client_dp_trainer.fit_without_noise", fail)
    with pytest.raises(MemoryError):
        trainer.fit(None, place(tmp_path))
    with pytest.raises(PrivacyError, match="needs a ledger"):
        trainer.fit(None)


def test_a_federation_reports_what_each_hospital_spent(good_hospitals, tiny_overrides, tmp_path):
    overrides = [*tiny_overrides(good_hospitals), "privacy=client", "model.image=null", "training.threads=1"]
    run = RunDir(tmp_path / "run")
    launch_run(RunSpec.compose(overrides, run))
    found = list(iter_run_spending(run.path))
    assert len(found) == 3
    assert all(each.unit == "client" and each.booked_count == 2 and 5 < each.epsilon < 8 for each in found)
    assert "for each hospital" in (run.path / "report.html").read_text()


def test_a_life_budget_is_kept(tmp_path, trainer):
    node = {"_target_": "fedhealth.training.client_dp_trainer.ClientDPTrainer", "dataset": "demo", "epsilon": 4.0}
    strict = instantiate(node, lifetime_epsilon=3.0)
    assert strict.check_can_join(None, place(tmp_path, 0)) == ["the run would exceed the privacy budget of demo"]
    assert trainer.check_can_join(None, place(tmp_path, 0)) == []
    assert trainer.compute_aggregation_weights({"shared": 40, "text": 0}) == {"shared": 1, "text": 0}
    assert trainer.release_statistics({"test.positives": np.ones((1, 4))}, None, place(tmp_path)) == {}
