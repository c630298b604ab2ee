"""Files of score histograms: what was written is read, and anything else is refused."""

import stat

import numpy as np
import pytest
from safetensors.numpy import save_file

from fedhealth.errors import ModelError
from fedhealth.evaluation.calibration import OWN_BINS
from fedhealth.evaluation.predictions import ScoreHistograms
from fedhealth.runs.hospital_calibration import find_own_scores, load_calibration, write_calibration
from fedhealth.runs.score_file import ScoreFile, load_score_file, pack_score_file

COUNTS = ScoreHistograms(np.arange(2 * OWN_BINS).reshape(2, -1), np.ones((2, OWN_BINS), np.int64))
OWN = ScoreFile({"validation": COUNTS}, {"model": "ab", "personal": "no"})


def test_a_file_is_read_as_it_was_written(tmp_path):
    noised = ScoreHistograms(np.full((2, 12), -1.5), np.full((2, 12), 4.25), 3.5)
    (tmp_path / "f").write_bytes(pack_score_file(ScoreFile({"validation": COUNTS, "pooled": noised}, {"model": "ab"})))
    found = load_score_file(tmp_path / "f")
    assert found.about == {"model": "ab"}
    assert found.counts["pooled"].noise_std == 3.5
    for name, expected in (("validation", COUNTS), ("pooled", noised)):
        assert np.array_equal(found.counts[name].positives, expected.positives)
        assert np.array_equal(found.counts[name].negatives, expected.negatives)


SPOILT = {
    "no such side": {"validation.positives": np.ones((1, 4))},
    "shapes": {"v.positives": np.ones((1, 4)), "v.negatives": np.ones((1, 5)), "v.noise_std": np.zeros(1)},
    "negative": {"v.positives": -np.ones((1, 4)), "v.negatives": np.ones((1, 4)), "v.noise_std": np.zeros(1)},
    "infinite": {"v.positives": np.full((1, 4), np.inf), "v.negatives": np.ones((1, 4)), "v.noise_std": np.ones(1)},
    "noise": {"v.positives": np.ones((1, 4)), "v.negatives": np.ones((1, 4)), "v.noise_std": np.array([np.nan])},
    "a model": {"fusion.head.bias": np.zeros(7, np.float32)},
}


@pytest.mark.parametrize("name", SPOILT)
def test_anything_else_is_refused(tmp_path, name):
    save_file(SPOILT[name], tmp_path / "f")
    with pytest.raises(ModelError, match="no score histograms"):
        load_score_file(tmp_path / "f")


def test_no_file_and_noise_bytes_are_refused(tmp_path):
    (tmp_path / "f").write_bytes(b"{}" * 40)
    for path in (tmp_path / "f", tmp_path / "absent"):
        with pytest.raises(ModelError):
            load_score_file(path)


def test_a_calibration_needs_own_scores_and_one_model(tmp_path):
    pooled = ScoreFile({"pooled": COUNTS}, {"model": "ab"})
    write_calibration(OWN, pooled, "north", tmp_path / "c")
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o600
    found = load_calibration(tmp_path / "c")
    assert (found.hospital, found.model, found.is_personal, len(found.classes)) == ("north", "ab", False, 2)
    one = ScoreHistograms(COUNTS.positives[:1], COUNTS.negatives[:1])
    for counts in (
        {"pooled": COUNTS},
        {"validation": COUNTS, "pooled": one},
        {"validation": ScoreHistograms(one.positives[:, :9], one.negatives[:, :9])},
    ):
        (tmp_path / "c").write_bytes(pack_score_file(ScoreFile(counts, {"model": "ab", "hospital": "north"})))
        with pytest.raises(ModelError):
            load_calibration(tmp_path / "c")


def test_own_scores_are_found_by_their_model(tmp_path):
    (tmp_path / "other").write_bytes(pack_score_file(ScoreFile({"validation": COUNTS}, {"model": "cd"})))
    (tmp_path / "own").write_bytes(pack_score_file(OWN))
    pooled = ScoreFile({}, {"model": "ab"})
    assert find_own_scores(pooled, [tmp_path / "other"]) is None
    assert find_own_scores(pooled, [tmp_path / "other", tmp_path / "own"]).about == OWN.about


def test_probabilities_of_exclusive_classes_sum_to_one(tmp_path):
    write_calibration(OWN, ScoreFile({}, {"model": "ab"}), "north", tmp_path / "c")
    scores = np.array([[0.2, 0.8], [0.5, 0.5]])
    found = load_calibration(tmp_path / "c")
    np.testing.assert_allclose(found.calibrate_scores(scores, is_exclusive=True).sum(axis=1), 1)
    assert found.decide_studies(scores, 0.3).shape == (2, 2)
