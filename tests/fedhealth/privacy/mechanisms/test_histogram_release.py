"""Noised score histograms: whole, not negative, about right, and one study a patient."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.privacy.mechanisms.histogram_release import (
    _project_to_counts,
    noise_histograms,
    select_studies_per_patient,
)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=60))
def test_plausible_counts_keep_their_sum_and_are_not_negative(values):
    found = _project_to_counts(np.array(values))
    assert (found >= 0).all()
    assert found.sum() == pytest.approx(max(sum(values), 0.0), abs=1e-6)


@given(st.lists(st.floats(0, 50), min_size=1, max_size=60))
def test_what_is_plausible_stays(values):
    assert _project_to_counts(np.array(values)) == pytest.approx(np.array(values), abs=1e-6)


def test_little_noise_keeps_the_counts_up_to_the_coarser_bins():
    counts = np.random.default_rng(0).poisson(3, (2, 2048))
    [sent] = noise_histograms({"test.positives": counts}, 1e-3, NoiseSource()).values()
    assert sent.shape == counts.shape
    assert abs(sent.sum() - counts.sum()) <= 48
    assert np.abs(np.cumsum(sent[0]) - np.cumsum(counts[0])).max() < 4 * 2048 / 48


def test_the_noise_grows_with_the_columns_one_study_moves():
    counts = np.full((4, 48), 1000)
    spread = noise_histograms({"a": counts}, 10.0, NoiseSource())["a"].std()
    assert 14 < spread < 28  # sqrt(4) x 10


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_every_patient_has_one_study(patients):
    patient = np.array(patients)
    study = np.arange(len(patients)) // 2 * 10 + patient  # rows of one study belong to one patient
    kept = select_studies_per_patient(study, patient, np.arange(len(patients)), 1)
    assert set(patient[kept]) == set(patients)
    assert all(len(set(study[kept][patient[kept] == one])) == 1 for one in set(patients))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 4))
def test_no_patient_has_more_studies_than_allowed_and_the_choice_is_the_same(patients, most):
    patient = np.array(patients)
    study = np.arange(len(patients)) // 3 * 10 + patient
    rows = np.arange(len(patients))
    kept = select_studies_per_patient(study, patient, rows, most)
    for one in set(patients):
        all_studies = list(dict.fromkeys(study[patient == one].tolist()))
        assert set(study[kept][patient[kept] == one]) == set(all_studies[:most])
    assert np.array_equal(kept, select_studies_per_patient(study, patient, rows, most))
