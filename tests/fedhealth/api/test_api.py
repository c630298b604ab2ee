"""The Python API: what a run and a comparison give is what their files say."""

import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import fedhealth
from fedhealth.errors import ConfigError, ModelError
from fedhealth.export.predict import StudyInput, score_studies


@pytest.fixture(scope="module", name="runs")
def runs_(tmp_path_factory, good_hospitals, tiny_overrides):
    """Two runs of the same federation; the second one has two steps more in each round."""
    folder = tmp_path_factory.mktemp("runs")
    overrides = [*tiny_overrides(good_hospitals), "baselines.local_only=true"]
    return [
        fedhealth.run([*overrides, *further], folder=folder / name, progress=False)
        for name, further in (("short", []), ("long", ["training.local_steps=4"]))
    ]


def test_the_metrics_are_those_of_the_files(runs):
    run = runs[0]
    assert run.state == "completed"
    files = json.loads((run.folder / "evaluation.json").read_text())
    validation = run.metrics.loc[("validation", "auroc")]
    assert [validation[end] for end in ("value", "low", "high")] == pytest.approx(
        [files["validation"]["auroc"][end] for end in ("value", "low", "high")]
    )
    assert validation["studies"] == files["validation"]["studies"]
    assert run.metrics.loc[("test", "auroc"), "value"] == run.record.test_result.metrics["auroc"].value
    assert run.config["training"]["local_steps"] == 2


def test_the_history_has_a_row_for_each_round(runs):
    run = runs[0]
    assert list(run.history.index) == [1, 2]
    assert (run.history["sites"] == 3).all()
    assert np.isfinite(run.history[["loss", "validation_auroc", "seconds"]].to_numpy(float)).all()
    assert run.history["bytes_received"].min() > 1000
    assert list(run.sites.index) == ["north", "south", "east"]
    assert (run.sites["patients"] == 24).all()
    assert (run.sites["missed_rounds"] == 0).all()


def test_baselines_have_the_gain_of_the_record(runs):
    record, table = runs[0].record, runs[0].baselines
    assert len(table) == len(record.comparison.gains) > 0
    for name, each in record.comparison.gains.items():
        assert table.loc[name, "gain"] == pytest.approx(each.gain.value, nan_ok=True)
        assert table.loc[name, "value"] == pytest.approx(each.alternative.value, nan_ok=True)


def test_without_privacy_there_is_an_empty_table_with_its_columns(runs):
    assert runs[0].privacy.empty
    assert list(runs[0].privacy.columns) == ["epsilon", "target", "delta", "noise_multiplier", "unit"]


def test_a_private_runs_table_is_the_ledgers(tmp_path, good_hospitals, tiny_overrides):
    private = ["privacy=patient", "privacy.epsilon=50", "privacy.min_cohort=5", "strategy.rounds=1"]
    run = fedhealth.run([*tiny_overrides(good_hospitals), *private], folder=tmp_path / "run", progress=False)
    assert len(run.privacy) == 3
    for spending in run.record.spending:
        row = run.privacy.loc[(spending.site, spending.dataset)]
        assert (row["epsilon"], row["delta"]) == (spending.epsilon, spending.delta)
        assert 0 < row["epsilon"] <= row["target"] <= 50


def test_the_model_scores_studies(runs):
    scores = score_studies(runs[0].model, [StudyInput(text="worse today", values={"crp": "90"})])
    assert scores.shape[0] == 1
    assert 0 <= scores.min() <= scores.max() <= 1


def test_a_run_is_displayed_without_its_scripts(runs):
    shown = runs[0]._repr_html_()
    assert shown.startswith("<iframe sandbox srcdoc=")
    assert "<script" not in shown  # escaped: it is the frame's content
    assert "pooled AUROC" in repr(runs[0])


def test_a_loaded_run_is_the_same(runs):
    loaded = fedhealth.load_run(str(runs[1].folder))
    pd.testing.assert_frame_equal(loaded.history, runs[1].history)
    assert loaded.report == runs[1].report


def test_runs_are_compared_on_the_same_patients(runs):
    comparison = fedhealth.compare(runs)
    assert len(comparison.table) == 2
    assert comparison.table["test_auroc"].tolist() == pytest.approx(
        [run.metrics.loc[("test", "auroc"), "value"] for run in runs], abs=1e-6
    )
    assert comparison.best.folder in [run.folder for run in runs]
    [gain] = comparison.gains.itertuples()
    assert gain.paired
    assert gain.low <= gain.gain <= gain.high
    assert comparison._repr_html_().startswith("<iframe sandbox")
    assert "2\N{NO-BREAK SPACE}runs, 2 completed" in repr(comparison)
    pd.testing.assert_frame_equal(fedhealth.compare([runs[0].folder.parent]).table.sort_index(), comparison.table)


def test_a_misspelt_override_leaves_no_folder(tmp_path):
    with pytest.raises(ConfigError, match="locl_steps"):
        fedhealth.run(["training.locl_steps=1"], folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_failed_run_can_be_loaded_and_says_so(tmp_path, tiny_overrides, capsys):
    with pytest.raises(fedhealth.FedhealthError, match="nowhere"):
        fedhealth.run([*tiny_overrides(tmp_path / "nowhere")], folder=tmp_path / "run")
    run = fedhealth.load_run(tmp_path / "run")
    assert run.state == "failed"
    assert run.history.empty
    assert math.isnan(run.metrics["value"].sum(min_count=1))
    with pytest.raises(ConfigError, match="has no report"):
        _ = run.report
    with pytest.raises(ModelError, match="is failed and has no model") as caught:
        _ = run.model
    assert "resume=" in caught.value.advice
    assert run._repr_html_().startswith("<p>Run(")


def test_an_error_of_an_own_part_is_typed(tmp_path, good_hospitals, tiny_overrides, monkeypatch):
    (tmp_path / "conf/strategy/server_optimizer").mkdir(parents=True)
    (tmp_path / "conf/strategy/server_optimizer/mine.yaml").write_text("_target_: own_optimizer.Mine\n")
    code = "class Mine:\n    state = {}\n\n    def step(self, arrays, update):\n        return arrays['gone']\n"
    (tmp_path / "own_optimizer.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    overrides = [*tiny_overrides(good_hospitals), "strategy/server_optimizer=mine"]
    folder, conf = tmp_path / "run", tmp_path / "conf"
    with pytest.raises(fedhealth.FedhealthError, match=r"Mine.step \(.*own_optimizer.py, line 5\) raised KeyError"):
        fedhealth.run(overrides, folder=folder, config_dir=conf, progress=False)
    assert "own_optimizer.py, line 5" in fedhealth.load_run(folder).record.info.fault.problem


def test_a_folder_is_used_once(runs):
    with pytest.raises(ConfigError, match="already contains a run"):
        fedhealth.run(["experiment=demo", "data.root=nowhere"], folder=runs[0].folder, progress=False)


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(ConfigError, match="There is no run in"):
        fedhealth.load_run(tmp_path)
    with pytest.raises(ConfigError, match="There is no run in"):
        fedhealth.compare([tmp_path])


@pytest.mark.parametrize("given", [None, 7, ["a"]])
def test_what_is_no_folder_is_named(given):
    with pytest.raises(ConfigError, match="is no folder"):
        fedhealth.load_run(given)


@pytest.mark.parametrize("given", ["outputs/a", [], None, [None], 7])
def test_what_is_no_list_of_runs_is_named(given):
    with pytest.raises(ConfigError, match=r"is no list of runs.\nGive a list, such as compare"):
        fedhealth.compare(given)


@pytest.mark.parametrize("given", ["experiment=demo", ["experiment=demo", 1]])
def test_what_is_no_list_of_overrides_is_named(given, tmp_path):
    with pytest.raises(ConfigError, match="is no list of overrides"):
        fedhealth.run(given, folder=tmp_path / "run")


def test_a_folder_of_configuration_files_that_is_none_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"There is no folder .*nowhere"):
        fedhealth.run(["experiment=demo"], config_dir=tmp_path / "nowhere")


@pytest.mark.parametrize("inside", [False, True])
def test_a_folder_that_is_a_file_is_named(tmp_path, good_hospitals, tiny_overrides, inside):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "run" if inside else tmp_path / "file"
    with pytest.raises(ConfigError, match="cannot be a folder: a file is there"):
        fedhealth.run(tiny_overrides(good_hospitals), folder=folder, progress=False)


def test_labels_in_a_comparison_are_texts(runs, tmp_path):
    copies = [shutil.copytree(run.folder, tmp_path / name) for run, name in zip(runs, ("007", "NA"), strict=True)]
    for copy in copies:
        info = json.loads((copy / "run.json").read_text())
        (copy / "run.json").write_text(json.dumps(info | {"overrides": []}))
    comparison = fedhealth.compare(copies)
    assert comparison.table.index.tolist() == ["007", "NA"]
    assert comparison.gains.index[0] in ("007", "NA")
    assert comparison.table.loc["007", "folder"] == str(copies[0])
    assert comparison.table["delta"].isna().all()
    numbers = comparison.table.drop(columns=["folder", "state", "privacy_unit", "on_pareto_front"])
    assert {column.kind for column in numbers.dtypes} <= {"i", "f"}


def test_the_best_run_is_the_one_that_was_given(runs):
    assert any(fedhealth.compare(runs).best is run for run in runs)


def test_folders_are_named_as_the_command_line_names_them(tmp_path, good_hospitals, tiny_overrides, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = [*tiny_overrides(good_hospitals), "strategy.rounds=1", "name=chest"]
    run = fedhealth.run(overrides, progress=False)
    assert run.folder.parts[0] == "outputs"
    assert run.folder.name.endswith("-chest")


def test_the_package_loads_torch_only_when_a_run_is_asked_for():
    code = "import sys, fedhealth; assert 'torch' not in sys.modules; fedhealth.run; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_what_the_package_does_not_export_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = fedhealth.no_such_thing
    assert set(fedhealth.__all__) <= set(dir(fedhealth))
