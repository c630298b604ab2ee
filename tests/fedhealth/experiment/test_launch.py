from types import SimpleNamespace

import pytest

from fedhealth.data.findings import DataFinding, FindingKind
from fedhealth.errors import DataError
from fedhealth.experiment import launch
from fedhealth.runs.run_dir import RunDir


def test_a_run_whose_data_changed_is_not_resumed(tmp_path, monkeypatch):
    run, config = RunDir(tmp_path / "run"), SimpleNamespace(data=SimpleNamespace(sites=["north"]))
    run.create()
    found = SimpleNamespace(digest="a", rejected=(), findings=(DataFinding(FindingKind.values, "x"),), counts=dict)
    monkeypatch.setattr(launch, "prepare_dataset", lambda *arguments: found)
    for _ in range(2):  # started, and resumed with the same data
        launch._prepare_sites(config, run)
    found.digest = "b"
    with pytest.raises(DataError, match="data of north changed since this run was started"):
        launch._prepare_sites(config, run)
