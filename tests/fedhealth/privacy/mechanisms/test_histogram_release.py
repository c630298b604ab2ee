"""Noised score histograms: raw, with the size of their noise, and one study a patient."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.errors import PrivacyError
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.privacy.mechanisms.histogram_release import noise_histograms, select_studies_per_patient
from fedhealth.privacy.mechanisms.noised_counts import decode_counts


def test_a_release_is_raw_and_states_its_noise():
    """Neither rounding nor cutting off at the site: the mean over many releases is the counts."""
    counts = np.zeros((2, 2000), np.int64)
    released = noise_histograms({"test.positives": counts}, 3.0, NoiseSource())
    values = decode_counts(released["test.positives"])
    std = 3.0 * np.sqrt(2)  # one study moves a count in each of two columns
    assert decode_counts(released["test.noise"])[0] == pytest.approx(std**2)
    assert values.std() == pytest.approx(std, rel=0.06)
    assert abs(values.mean()) < 4 * std / np.sqrt(4000)
    assert (values < 0).mean() > 0.4
    assert (values % 1 != 0).any()


@pytest.mark.parametrize(("variables", "share"), [(1, 0.5), (3, 0.25), (0, 0.25)])
def test_scores_by_subgroup_share_the_booked_event(variables, share):
    """One patient moves K counts in a table of scores and K in each variable's: the squared ratios add up."""
    tables = {"test.positives": np.zeros((2, 2000), np.int64), "test.negatives": np.zeros((2, 2000), np.int64)}
    tables |= {f"groups.{n}": np.zeros((2, 3, 2, 800), np.int64) for n in range(variables)}
    released = noise_histograms(tables, 3.0, NoiseSource(), share)
    stated = {part: decode_counts(released[f"{part}.noise"])[0] for part in {n.partition(".")[0] for n in tables}}
    assert 2 / stated["test"] + variables * 2 / stated.get("groups", np.inf) == pytest.approx(1 / 3.0**2, rel=1e-3)
    for name in tables:
        assert decode_counts(released[name]).std() == pytest.approx(stated[name.partition(".")[0]] ** 0.5, rel=0.06)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_scores_by_subgroup_without_a_part_of_the_release_are_refused(share):
    with pytest.raises(PrivacyError, match="subgroup release share"):
        noise_histograms({"groups.sex": np.zeros((2, 2, 1, 4), np.int64)}, 3.0, NoiseSource(), share)


def test_each_split_states_its_noise():
    counts = {f"{split}.{side}": np.zeros((1, 4), np.int64) for split in ("validation", "test") for side in "ab"}
    released = noise_histograms(counts, 2.0, NoiseSource())
    assert set(released) == {*counts, "validation.noise", "test.noise"}


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
