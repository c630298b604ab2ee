from itertools import pairwise

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from fedhealth.data.synthetic.studies import draw_studies


@pytest.fixture(scope="module")
def studies():
    return draw_studies(np.random.default_rng(0), 2000, 0.3)


def auc(studies, columns):
    factors = np.array([study.factors for study in studies])[:, columns]
    labels = np.array([study.label for study in studies])
    half = len(labels) // 2
    model = LogisticRegression().fit(factors[:half], labels[:half])
    return roc_auc_score(labels[half:], model.decision_function(factors[half:]))


def test_fusion_beats_every_modality_and_is_not_perfect(studies):
    image, note, labs = (auc(studies, [column]) for column in range(3))
    both, everything = auc(studies, [0, 1]), auc(studies, [0, 1, 2])
    assert 0.70 < image < 0.88
    assert 0.70 < note < 0.88
    assert 0.53 < labs < 0.70
    assert both > max(image, note) + 0.08
    assert both + 0.003 < everything < 0.99


def test_prevalence_and_numbering(studies):
    assert np.mean([study.label for study in studies]) == pytest.approx(0.3, abs=0.03)
    first = [study for study in studies if study.number == 1]
    assert [study.patient for study in first] == list(range(2000))


def test_the_factors_are_independent_and_shared_within_a_patient(studies):
    factors = np.array([study.factors for study in studies])
    correlation = np.corrcoef(factors.T)
    assert np.abs(correlation[np.triu_indices(3, 1)]).max() < 0.06
    pairs = [(one, two) for one, two in pairwise(studies) if one.patient == two.patient]
    before, after = (np.array([pair[side].factors[0] for pair in pairs]) for side in (0, 1))
    assert np.corrcoef(before, after)[0, 1] == pytest.approx(0.5, abs=0.1)
    assert all(one.age == two.age and one.sex == two.sex for one, two in pairs)
