from types import SimpleNamespace

import pytest

from fedhealth.config.schema import Purpose
from fedhealth.data.findings import DataFinding, FindingKind
from fedhealth.errors import ConfigError, DataError
from fedhealth.experiment import launch
from fedhealth.runs.run_dir import RunDir


def make_config(patience=None, purpose=Purpose.train):
    data, strategy = SimpleNamespace(sites=["north", "south"]), SimpleNamespace(patience=patience)
    return SimpleNamespace(data=data, strategy=strategy, purpose=purpose)


def make_dataset(validation=()):
    findings = (DataFinding(FindingKind.values, "x"),)
    return SimpleNamespace(
        digest="a", rejected=(), findings=findings, counts=dict, rows={"validation": validation}.__getitem__
    )


def test_a_run_whose_data_changed_is_not_resumed(tmp_path, monkeypatch):
    run, config = RunDir(tmp_path / "run"), make_config()
    run.create()
    found = make_dataset()
    monkeypatch.setattr(launch, "prepare_dataset", lambda *arguments: found)
    for _ in range(2):  # started, and resumed with the same data
        launch._prepare_sites(config, run)
    found.digest = "b"
    with pytest.raises(DataError, match="data of north changed since this run was started"):
        launch._prepare_sites(config, run)


def test_patience_without_any_validation_row_is_refused_before_training(tmp_path, monkeypatch):
    run, cohorts = RunDir(tmp_path / "run"), {"north": make_dataset(), "south": make_dataset()}
    run.create()
    monkeypatch.setattr(launch, "prepare_dataset", lambda data, site, progress: cohorts[site])
    with pytest.raises(ConfigError, match=r"strategy\.patience: no site has a labelled validation row"):
        launch._prepare_sites(make_config(patience=3), run)
    launch._prepare_sites(make_config(patience=3, purpose=Purpose.describe), run)
    launch._prepare_sites(make_config(), run)
    cohorts["south"] = make_dataset(validation=(4,))
    launch._prepare_sites(make_config(patience=3), run)
