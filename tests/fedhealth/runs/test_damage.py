"""A damaged file in a run's folder is named with what to do, by the Python API and the command line alike."""

import json
import shutil

import pytest
from typer.testing import CliRunner

import fedhealth
from fedhealth.cli.main import app
from fedhealth.errors import ConfigError
from fedhealth.runs.run_dir import PREDICTIONS_FILE

JSON_FILES = ("run.json", "evaluation.json", "comparison.json", "groups.json", "audit.json")


@pytest.fixture(scope="module", name="good")
def good_(tmp_path_factory, tiny_overrides, good_hospitals):
    folder = tmp_path_factory.mktemp("good") / "run"
    overrides = [*tiny_overrides(good_hospitals), "strategy.rounds=1", "baselines.local_only=true"]
    fedhealth.run(overrides, folder=folder, progress=False)
    return folder


@pytest.fixture(name="folder")
def folder_(good, tmp_path):
    return shutil.copytree(good, tmp_path / "run")


@pytest.mark.parametrize("content", ["{", "[1]", '{"sites": 3, "state": "completed"}', "7", '"x"', "\udcff"])
@pytest.mark.parametrize("name", JSON_FILES)
def test_a_damaged_json_file_is_named(folder, name, content):
    (folder / name).write_text(content, "utf-8", errors="surrogateescape")
    said = find_damage(folder)
    assert said is None or f"{folder / name} is damaged" in said  # some contents are possible for some files


def find_damage(folder):
    """Return how a run's damage is described; None where there is none; any other exception is a fault of ours."""
    try:
        assert fedhealth.load_run(folder).record.info
    except ConfigError as fault:
        return str(fault)
    return None


@pytest.mark.parametrize("name", ["run.json", "config.yaml", "evaluation.json", "comparison.json"])
def test_a_cut_file_is_refused_everywhere(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes()[:-20] + b": [")
    run = fedhealth.load_run(folder)
    for read in (lambda: run.metrics, lambda: run.history, lambda: repr(run), lambda: fedhealth.compare([folder])):
        with pytest.raises(ConfigError, match=rf"{name} is damaged"):
            read()
    shown = CliRunner().invoke(app, ["compare", str(folder)])
    assert isinstance(shown.exception, ConfigError)
    assert f"{name} is damaged" in str(shown.exception)


def test_an_event_without_its_fields_is_named(folder):
    with (folder / "events.jsonl").open("a") as file:
        file.write('{"event": "round_started"}\n')
    with pytest.raises(ConfigError, match=r"events.jsonl is damaged \(KeyError: 'round'\)"):
        _ = fedhealth.load_run(folder).history


def test_damaged_scores_are_named(folder):
    (folder / "score_histograms.npz").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"score_histograms.npz is damaged"):
        _ = fedhealth.load_run(folder).metrics


def test_damaged_predictions_are_named_by_a_comparison(folder, good):
    path = folder / "sites" / "north" / PREDICTIONS_FILE
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ConfigError, match=rf"{PREDICTIONS_FILE} is damaged"):
        _ = fedhealth.compare([folder, good]).gains


def test_the_state_of_a_run_without_one_is_unknown(folder):
    (folder / "run.json").write_text(json.dumps({"run": "x"}))
    assert fedhealth.load_run(folder).state == "unknown"
    shown = CliRunner().invoke(app, ["status", str(folder)])
    assert "unknown" in shown.output
