"""docs/add-a*.md: the blocks of each guide, written where it says, are an extension that works and pass its test.

docs/add-a-method.md is followed in tests/clients/personalization/test_add_a_method.py.
"""

import importlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from fedhealth.cli.main import app
from fedhealth.errors import ModelError
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.ingest.settings import IngestTable
from fedhealth.ingest.table_source import build_table_source
from fedhealth.runs.run_dir import RunDir
from fedhealth.utils.yaml_model import parse_settings

DOCS = Path(__file__).parents[2] / "docs"
GUIDES = {
    "add-an-aggregation.md": "strategies.aggregation",
    "add-a-server-optimizer.md": "strategies.server_optimizers",
    "add-an-encoder.md": "fedhealth.models.encoders",
    "add-a-data-source.md": "fedhealth.ingest.sources",
}
_BLOCK = re.compile(r"^`((?:strategies|fedhealth|conf|tests)/\S+?\.\w+)`(?:(?!^```).)*?^```\w+\n(.*?)^```", re.M | re.S)


@pytest.fixture(name="blocks")
def blocks_(tmp_path, monkeypatch):
    """Write the blocks of all guides below a temporary folder that the packages are continued in; return it."""
    for guide, package in GUIDES.items():
        blocks = _BLOCK.findall((DOCS / guide).read_text("utf-8"))
        assert [path.split("/")[0] for path, _ in blocks[:3]] == [package.split(".")[0], "conf", "tests"]
        for path, text in blocks:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text, "utf-8")
        module = importlib.import_module(package)
        monkeypatch.setattr(module, "__path__", [*module.__path__, str(tmp_path / package.replace(".", "/"))])
    return tmp_path


def test_an_aggregation_an_optimizer_and_an_encoder_train_together(blocks, tmp_path, good_hospitals, tiny_overrides):
    overrides = [o for o in tiny_overrides(good_hospitals) if not o.startswith("strategy.rounds")]
    overrides += ["strategy/aggregation=equal_mean", "strategy/server_optimizer=lion", "strategy.rounds=1"]
    overrides += ["model/tabular=residual_table", "model.tabular.width=4"]
    folder = RunDir(tmp_path / "run")
    launch_run(RunSpec.compose(overrides, folder, blocks / "conf"))
    [strategy] = [e for e in folder.read_events()[0] if e["event"] == "strategy"]
    assert strategy["parts"] == ["EqualMean", "Lion"]
    assert folder.info.state == "completed"


def test_a_rule_alone_trains(blocks, tmp_path, good_hospitals, tiny_overrides):
    overrides = [*tiny_overrides(good_hospitals), "strategy/aggregation=median_length", "strategy.rounds=1"]
    folder = RunDir(tmp_path / "run")
    launch_run(RunSpec.compose(overrides, folder, blocks / "conf"))
    assert folder.info.state == "completed"
    rule = importlib.import_module("strategies.aggregation.median_length").clip_to_median_length
    vectors = [np.array([length, 0], np.float32) for length in (1, 2, 30)]
    assert rule(vectors).tolist() == pytest.approx([5 / 3, 0])


def test_a_model_with_an_own_encoder_is_loaded_as_the_guide_says(
    blocks, good_hospitals, tiny_overrides, monkeypatch, capsys
):
    monkeypatch.chdir(blocks)
    section = (DOCS / "add-an-encoder.md").read_text("utf-8").partition("## The trained model")[2].partition("\n## ")[0]
    [console, code] = re.findall(r"^```\w+\n(.*?)^```", section, re.M | re.S)
    train, predict = (shlex.split(line.removeprefix("$ "))[1:] for line in console.splitlines())
    options = [each for each in train if each.startswith("model/")]
    launch_run(RunSpec.compose([*tiny_overrides(good_hospitals), *options], RunDir(Path("outputs/mine")), Path("conf")))
    assert train[:3] == ["run", "--config-dir", "conf"]
    assert "data.root=outputs/demo/hospitals" in train
    assert train[-1] == "hydra.run.dir=outputs/mine"
    with pytest.raises(ModelError, match=r"residual_table.ResidualTable', which no installed option names"):
        run_command(["predict", *predict[1:2], *predict[4:]])
    capsys.readouterr()
    run_command(predict)
    [probability] = json.loads(capsys.readouterr().out)["probabilities"].values()
    found = {}
    exec(code, found)
    assert found["scores"].item() == pytest.approx(probability, abs=1e-6)
    assert type(found["run"].model.model.towers["tabular"].encoder).__name__ == "ResidualTable"


def run_command(words):
    shown = CliRunner().invoke(app, words)
    if shown.exception is not None:
        raise shown.exception
    print(shown.output)


def test_the_data_source_is_built_from_the_settings(blocks):
    [table] = yaml.safe_load((blocks / "conf/tables.yaml").read_text("utf-8"))["tables"]
    source = build_table_source(parse_settings(table, IngestTable, "tables", "Correct it."))
    assert source.describe_request() == "every line of /srv/export/labels.jsonl"


@pytest.mark.parametrize("guide", GUIDES)
def test_the_guides_own_test_passes(blocks, guide, tmp_path):
    [path] = [path for path, _ in _BLOCK.findall((DOCS / guide).read_text("utf-8")) if path.startswith("tests/")]
    scope = {}
    exec((blocks / path).read_text("utf-8"), scope)
    [test] = [value for name, value in scope.items() if name.startswith("test_")]
    test(*([tmp_path] if "tmp_path" in test.__code__.co_varnames[: test.__code__.co_argcount] else []))
