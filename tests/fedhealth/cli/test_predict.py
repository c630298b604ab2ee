import json

import numpy as np
import pytest

from fedhealth.cli.predict import Scoring, run_predict
from fedhealth.errors import ConfigError
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.runs.hospital_calibration import MODEL, PERSONAL, load_calibration
from fedhealth.runs.run_dir import MODEL_DIR, RunDir
from fedhealth.runs.score_file import CALIBRATION_FILE, OWN_SCORES_FILE, ScoreFile, load_score_file, pack_score_file


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_overrides, good_hospitals):
    run = RunDir(tmp_path_factory.mktemp("predict") / "run")
    overrides = [*tiny_overrides(good_hospitals), "strategy.rounds=1"]
    launch_run(RunSpec.compose(overrides, run))
    return run.path / MODEL_DIR


def predicted(model, images=(), note=None, values=(), table=None, to=None, **how):
    run_predict(Scoring(model, **how), list(images), note, list(values), table, to)


def calibration_of(model, site):
    return model.parent / "sites" / site / CALIBRATION_FILE


def test_one_study_is_json(model, good_hospitals, tmp_path, capsys):
    (tmp_path / "note.txt").write_text("worse today")
    image = good_hospitals / "north" / "images" / "1.png"
    predicted(model, [image], f"@{tmp_path / 'note.txt'}", ["crp=90"])
    from_file = json.loads(capsys.readouterr().out)
    predicted(model, [image], "worse today", ["crp=90"])
    assert from_file == json.loads(capsys.readouterr().out)
    assert 0 < from_file["probabilities"]["severe"] < 1
    assert "not a medical device" in from_file["note"]
    assert from_file["calibrated_for"] is None


def test_a_calibrated_study_says_for_which_hospital_and_may_abstain(model, capsys):
    predicted(model, note="worse today", calibration=calibration_of(model, "north"))
    north = json.loads(capsys.readouterr().out)
    predicted(model, note="worse today", calibration=calibration_of(model, "south"), risk=0.6)
    south = json.loads(capsys.readouterr().out)
    assert (north["calibrated_for"], north["risk"]) == ("north", 0.1)
    assert north["decision"] == {"severe": "abstains"}  # three own studies cannot show a risk of .1
    assert (south["calibrated_for"], south["risk"]) == ("south", 0.6)
    assert south["decision"]["severe"] in ("yes", "no")
    own = load_score_file(model.parent / "sites" / "north" / OWN_SCORES_FILE).counts["validation"]
    assert north["own_studies"] == {"severe": {"with": int(own.positives.sum()), "without": int(own.negatives.sum())}}
    (fitted,) = load_calibration(calibration_of(model, "north")).classes
    assert north["threshold"] == {"severe": pytest.approx(fitted.threshold, abs=1e-6)}
    raw = np.array([north["uncalibrated"]["severe"]])
    assert north["probabilities"]["severe"] == pytest.approx(fitted.calibrate_scores(raw)[0], abs=1e-5)


def test_a_calibrated_table_has_decisions(model, good_hospitals, capsys):
    predicted(model, table=good_hospitals / "east" / "manifest.csv", calibration=calibration_of(model, "east"))
    head, first, *_ = capsys.readouterr().out.splitlines()
    assert head == "study,severe,severe decision at risk 0.1,calibrated for"
    assert first.endswith(",abstains,east")


def test_a_calibration_of_another_model_variant_or_risk_is_refused(model, tmp_path):
    file = calibration_of(model, "north")
    for changed in ({MODEL: "00"}, {PERSONAL: "yes"}):
        found = load_score_file(file)
        spoilt = tmp_path / "spoilt.safetensors"
        spoilt.write_bytes(pack_score_file(ScoreFile(found.counts, {**found.about, **changed})))
        with pytest.raises(ConfigError, match="is of"):
            predicted(model, note="x", calibration=spoilt)
    for risk in (0.0, 1.0, float("nan")):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            predicted(model, note="x", calibration=file, risk=risk)


def test_a_table_is_csv(model, good_hospitals, tmp_path, capsys):
    manifest = good_hospitals / "north" / "manifest.csv"
    predicted(model, table=manifest)
    shown = capsys.readouterr().out
    predicted(model, table=manifest, to=tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_text() == shown
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", f"Scores: {(tmp_path / 'scores.csv').as_uri()}\n")
    assert shown.splitlines()[0] == "study,severe"
    assert shown.splitlines()[1].startswith("north-0 1,0.")
    assert len(shown.splitlines()) == 25


@pytest.mark.parametrize("arguments", [{}, {"note": "x", "table": "t.csv"}, {"values": ["age"]}, {"note": "@absent"}])
def test_what_makes_no_sense_is_refused(model, arguments):
    with pytest.raises(ConfigError):
        predicted(model, **arguments)
