"""The alternatives to the federation: trained under the promise that the run makes."""

import pytest

from fedhealth.config.compose import compose_config as composed
from fedhealth.config.compose import compute_config_digest
from fedhealth.data.dataset import prepare_dataset
from fedhealth.experiment import baselines
from fedhealth.experiment.baselines import CENTRALISED, BaselineData, train_baseline
from fedhealth.privacy.accounting.ledger import Ledger
from fedhealth.protocol.job import Job, compose_job_config

PRIVATE = ("privacy=patient", "privacy.min_cohort=5", "model.image=null", "training.threads=1", "training.batch_size=4")


@pytest.fixture(name="job")
def job_(tmp_path, good_hospitals, tiny_overrides):
    def make(*overrides):
        every = (*tiny_overrides(good_hospitals), "strategy.rounds=3", "training.local_steps=2", *overrides)
        return Job("bench", every, compute_config_digest(composed(every)), str(tmp_path))

    return make


@pytest.fixture(name="booked")
def booked_(monkeypatch):
    """What is booked while the alternatives are trained."""
    events = []
    book = Ledger.book

    def noted(self, run, number, unit, event, budget, **details):
        events.append((unit, event, budget))
        return book(self, run, number, unit, event, budget, **details)

    monkeypatch.setattr(Ledger, "book", noted)
    return events


def trained(job, name):
    baselines.get_baseline_data.cache_clear()
    return train_baseline(name, job)


def test_without_privacy_nothing_is_booked(job, booked):
    assert trained(job("model.image=null"), "alone north").keys() == {"north", "south", "east"}
    assert booked == []


def test_a_hospital_alone_has_the_runs_budget_and_its_steps(job, booked):
    assert trained(job(*PRIVATE, "privacy.epsilon=3"), "alone north")
    [(unit, event, budget)] = booked
    assert (unit, event.steps, budget.run_epsilon) == ("patient", 6, 3.0)


def test_all_data_in_one_place_take_one_hospitals_steps_over_larger_batches(job, booked):
    config = compose_job_config(job(*PRIVATE))
    assert trained(job(*PRIVATE), CENTRALISED)
    [(_, event, _)] = booked
    cohort = sum(len(set(site.patient[site.rows("train")])) for site in _cohorts(config))
    assert event.steps == 6
    assert event.sample_rate == pytest.approx(
        3 * 4 / cohort, rel=0.42
    )  # of the cohort rounded down to a power of sqrt 2


def test_all_data_in_one_place_take_all_steps_without_privacy(job):
    assert (
        BaselineData.prepare(compose_job_config(job("model.image=null")))._work([5, 5, 5], private=False).local_steps
        == 18
    )


def test_a_hospital_that_is_too_small_for_the_promise_is_left_out(job):
    assert trained(job(*PRIVATE, "privacy.min_cohort=1000"), "alone north") is None


def _cohorts(config):
    return [prepare_dataset(config.data, site) for site in config.data.sites]
