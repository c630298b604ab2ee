import json

import pytest

from fedhealth.cli.predict import run_predict
from fedhealth.errors import ConfigError
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.runs.run_dir import MODEL_DIR, RunDir


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_overrides, good_hospitals):
    run = RunDir(tmp_path_factory.mktemp("predict") / "run")
    overrides = [*tiny_overrides(good_hospitals), "strategy.rounds=1"]
    launch_run(RunSpec.compose(overrides, run))
    return run.path / MODEL_DIR


def predicted(model, images=(), note=None, values=(), table=None, to=None, own=None):
    run_predict(model, list(images), note, list(values), table, to, own)


def test_one_study_is_json(model, good_hospitals, tmp_path, capsys):
    (tmp_path / "note.txt").write_text("worse today")
    image = good_hospitals / "north" / "images" / "1.png"
    predicted(model, [image], f"@{tmp_path / 'note.txt'}", ["crp=90"])
    from_file = json.loads(capsys.readouterr().out)
    predicted(model, [image], "worse today", ["crp=90"])
    assert from_file == json.loads(capsys.readouterr().out)
    assert 0 < from_file["probabilities"]["severe"] < 1
    assert "not a medical device" in from_file["note"]


def test_a_table_is_csv(model, good_hospitals, tmp_path, capsys):
    manifest = good_hospitals / "north" / "manifest.csv"
    predicted(model, table=manifest)
    shown = capsys.readouterr().out
    predicted(model, table=manifest, to=tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_text() == shown
    assert shown.splitlines()[0] == "study,severe"
    assert shown.splitlines()[1].startswith("north-0 1,0.")
    assert len(shown.splitlines()) == 25


@pytest.mark.parametrize("arguments", [{}, {"note": "x", "table": "t.csv"}, {"values": ["age"]}, {"note": "@absent"}])
def test_what_makes_no_sense_is_refused(model, arguments):
    with pytest.raises(ConfigError):
        predicted(model, **arguments)
