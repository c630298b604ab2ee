"""Test scores with each hospital's calibration: those of `predict --calibration`, decided at its own threshold."""

import json

import numpy as np
import pytest
from omegaconf import OmegaConf
from sklearn.metrics import balanced_accuracy_score

from fedhealth.config.compose import compose_config
from fedhealth.evaluation.calibration import OWN_BINS
from fedhealth.evaluation.metrics import build_score_table, compute_calibration_error
from fedhealth.evaluation.predictions import Predictions, count_scores
from fedhealth.experiment.calibrated_scores import describe_calibrated_scores
from fedhealth.runs.hospital_calibration import HOSPITAL, MODEL, load_calibration, write_calibration
from fedhealth.runs.run_dir import RunDir
from fedhealth.runs.score_file import CALIBRATION_FILE, ScoreFile

SHIFTS = {"north": -4.0, "south": -2.0}
PREVALENCE = {"north": 0.15, "south": 0.5}


def draw_studies(site, seed, studies=300):
    generator = np.random.default_rng(seed)
    labels = (generator.random(studies) < PREVALENCE[site]).astype(float)
    logits = 2.0 * generator.standard_normal(studies) + 3.0 * labels + SHIFTS[site]
    return Predictions((1 / (1 + np.exp(-logits)))[:, None], labels[:, None], np.arange(studies))


@pytest.fixture(name="config")
def config_(tiny_overrides, good_hospitals):
    return OmegaConf.to_object(compose_config([*tiny_overrides(good_hospitals), "evaluation.bootstrap=50"]))


@pytest.fixture(name="run")
def run_(tmp_path):
    """A run's directory with the calibrations of two hospitals, made from validation studies."""
    run = RunDir(tmp_path)
    for number, site in enumerate(SHIFTS):
        run.site_dir(site).mkdir(parents=True)
        own = ScoreFile({"validation": count_scores(draw_studies(site, number), OWN_BINS)}, {MODEL: "x"})
        write_calibration(own, ScoreFile({}, {MODEL: "x", HOSPITAL: site}), site, run.site_dir(site) / CALIBRATION_FILE)
    return run


def test_each_hospitals_scores_and_threshold_are_its_own(run, config):
    scored = {site: draw_studies(site, 10 + number) for number, site in enumerate(SHIFTS)}
    found = describe_calibrated_scores(scored, config, run)
    labels = np.concatenate([each.labels[:, 0] for each in scored.values()])
    scores, called = [], []
    for site, each in scored.items():
        (own,) = load_calibration(run.site_dir(site) / CALIBRATION_FILE).classes
        scores.append(own.calibrate_scores(each.scores[:, 0]))
        called.append(scores[-1] >= own.threshold)
        assert found["thresholds"][site] == [pytest.approx(PREVALENCE[site], abs=0.06)]
    error = compute_calibration_error(build_score_table(np.concatenate(scores), labels == 1, np.ones(len(labels))))
    accuracy = balanced_accuracy_score(labels, np.concatenate(called))
    assert found["balanced_accuracy"]["value"] == pytest.approx(accuracy, abs=1e-6)
    assert found["calibration_error"]["value"] == pytest.approx(float(error), abs=1e-6)
    assert found["balanced_accuracy"]["low"] < accuracy < found["balanced_accuracy"]["high"]
    assert accuracy > 0.7
    assert json.loads(json.dumps(found)) == found


def test_test_labels_choose_nothing(run, config):
    scored = {site: draw_studies(site, 10) for site in SHIFTS}
    turned = {site: Predictions(each.scores, 1 - each.labels, each.patient) for site, each in scored.items()}
    found, other = (describe_calibrated_scores(each, config, run) for each in (scored, turned))
    assert found["thresholds"] == other["thresholds"]
    assert other["balanced_accuracy"]["value"] == pytest.approx(1 - found["balanced_accuracy"]["value"], abs=1e-5)


def test_a_hospital_without_calibration_leaves_nothing_to_say(run, config):
    scored = {site: draw_studies(site, 10) for site in SHIFTS}
    path = run.site_dir("south") / CALIBRATION_FILE
    nobody = count_scores(draw_studies("south", 0, studies=0), OWN_BINS)
    path.unlink()
    assert describe_calibrated_scores(scored, config, run) is None
    write_calibration(ScoreFile({"validation": nobody}, {MODEL: "x"}), ScoreFile({}, {}), "south", path)
    assert describe_calibrated_scores(scored, config, run) is None
