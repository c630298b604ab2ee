"""Summed statistics: a secure sum shows nobody's part, so impossible sums are named as such."""

import numpy as np
import pytest

from fedhealth.errors import FederationError
from strategies.statistics import read_score_counts, summarize_statistics


def make_counts(positives):
    return {"test.positives": np.array([positives]), "test.negatives": np.ones((1, 4), np.int64)}


def test_negative_sums_of_exact_counts_are_an_error_of_a_site():
    assert read_score_counts(make_counts([0, 1, 2, 3]))["test"].positives.tolist() == [[0, 1, 2, 3]]
    with pytest.raises(FederationError, match="summed score counts of test are below zero"):
        read_score_counts(make_counts([0, 1, -2, 3]))


@pytest.mark.parametrize("examples", [0, -20])
def test_no_mean_is_taken_over_no_examples(examples):
    assert summarize_statistics({"train.examples": np.array([examples]), "train.loss": np.array([9])}) == {}
