from dataclasses import replace

import numpy as np
import pytest

from fedhealth.data.duplicates import count_duplicates
from fedhealth.ingest import phi_warnings
from fedhealth.ingest.leakage import measure_text_leakage
from tests.fedhealth.ingest.test_join import facts


def test_duplicates():
    images = [("a", "p", "train"), ("a", "p", "train"), ("b", "p", "train"), ("b", "q", "test"), ("c", "p", "train")]
    found = count_duplicates(images)
    assert (found.images, found.across_patients, found.across_splits) == (2, 1, 1)


def reports(share, count=200):
    """Reports of which a share says the label in a word."""
    generator = np.random.default_rng(0)
    label = np.arange(count) % 2 == 1
    words = ["heart", "lung", "rib", "left", "right"]
    texts = [" ".join(generator.choice(words, 4)) for _ in range(count)]
    said = label & (generator.random(count) < share)
    texts = [text + " ventilated" * bool(told) for text, told in zip(texts, said, strict=True)]
    return texts, label, [f"patient {number // 2}" for number in range(count)]


def test_words_that_tell_the_label_are_found():
    found = measure_text_leakage(*reports(1.0))
    assert found is not None
    assert found.auroc > 0.99
    assert found.words[0] == "ventilated"


def test_words_that_tell_nothing():
    found = measure_text_leakage(*reports(0.0))
    assert found is not None
    assert found.auroc == pytest.approx(0.5, abs=0.12)


def test_too_few_reports_tell_nothing():
    texts, label, patients = reports(1.0, count=30)
    assert measure_text_leakage(texts, label, patients) is None


def test_burnt_in_text():
    plain = facts()
    assert phi_warnings.explain_burned_in_text(plain) == ""
    assert "states" in phi_warnings.explain_burned_in_text(replace(plain, burned_in="YES"))
    assert "US" in phi_warnings.explain_burned_in_text(replace(plain, modality="US"))
    assert phi_warnings.explain_burned_in_text(replace(plain, modality="US", burned_in="NO")) == ""
    assert "capture" in phi_warnings.explain_burned_in_text(replace(plain, secondary=True))
    assert phi_warnings.find_phi_warnings([plain, replace(plain, overlay=True)], [])[0].startswith(
        "1 file(s) have overlay"
    )


def test_equal_headers_tell_nothing():
    _, label, patients = reports(0.0)
    label = label & (np.arange(len(label)) % 3 > 0)  # rarer than the other
    found = measure_text_leakage(["DX PA CHEST"] * len(label), label, patients)
    assert found is not None
    assert found.auroc == 0.5
