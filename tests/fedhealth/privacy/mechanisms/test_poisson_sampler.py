"""Poisson sampling of patients."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.errors import PrivacyError
from fedhealth.privacy.mechanisms.poisson_sampler import PatientSampler


def sampler(rows, **changes):
    return PatientSampler(
        rows, **{"sample_rate": 0.5, "steps": 4, "max_records_per_patient": 2, "max_physical_batch_size": 5, **changes}
    )


@given(st.lists(st.integers(1, 7), max_size=12), st.integers(1, 4), st.integers(1, 9), st.floats(0.05, 1))
def test_a_patient_is_never_split_and_never_over_the_cap(sizes, max_records_per_patient, max_physical_batch_size, rate):
    starts = np.cumsum([0, *sizes])
    cohort = [list(range(starts[i], starts[i + 1])) for i in range(len(sizes))]
    for step in sampler(
        cohort,
        sample_rate=rate,
        max_records_per_patient=max_records_per_patient,
        max_physical_batch_size=max_physical_batch_size,
    ):
        seen = [set(batch.patients) for batch in step]
        assert sum(len(s) for s in seen) == len(set().union(*seen))
        for batch in step:
            assert len(batch.rows) == len(batch.patients) > 0
            assert len(batch.rows) <= max_physical_batch_size or len(set(batch.patients)) == 1
            for patient in set(batch.patients):
                rows = [r for r, p in zip(batch.rows, batch.patients, strict=True) if p == patient]
                assert len(rows) == len(set(rows)) == min(max_records_per_patient, sizes[patient])
                assert set(rows) <= set(cohort[patient])


def test_every_patient_is_drawn_at_the_rate_and_independently():
    steps, rate = 4000, 0.2
    drawn = np.zeros((steps, 3))
    for i, step in enumerate(sampler([[0], [1], [2]], sample_rate=rate, steps=steps)):
        drawn[i, [p for batch in step for p in batch.patients]] = 1
    assert np.abs(drawn.mean(0) - rate).max() < 6 * np.sqrt(rate * (1 - rate) / steps)
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 6 / np.sqrt(steps)


def test_steps_are_fixed_and_empty_draws_are_steps_too():
    steps = list(sampler([[0]], sample_rate=1e-9, steps=7))
    assert steps == [[]] * 7
    assert len(sampler([], steps=7)) == 7


def test_rate_one_takes_everyone():
    assert [batch.patients for batch in next(iter(sampler([[0], [1]], sample_rate=1.0)))] == [[0, 1]]


def test_seeds_do_not_reach_it():
    draws = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        draws.append(list(sampler([[i] for i in range(200)])))
    assert draws[0] != draws[1]


@pytest.mark.parametrize(
    "bad",
    [
        {"sample_rate": 0.0},
        {"sample_rate": 1.5},
        {"steps": 0},
        {"max_records_per_patient": 0},
        {"max_physical_batch_size": 0},
    ],
)
def test_impossible_sampling_is_refused(bad):
    with pytest.raises(PrivacyError, match="cannot sample"):
        sampler([[0]], **bad)
