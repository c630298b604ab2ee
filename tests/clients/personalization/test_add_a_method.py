"""docs/add-a-method.md: its three blocks, written where it says, are a method that trains."""

import re
from pathlib import Path

import pytest
from safetensors.numpy import load_file

import clients.personalization
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.runs.run_dir import PRIVATE_FILE, RunDir

PAGE = Path(__file__).parents[3] / "docs" / "add-a-method.md"


@pytest.fixture(name="blocks")
def blocks_(tmp_path, monkeypatch):
    """Write the blocks below a temporary folder that the package is continued in; return it."""
    blocks = re.findall(r"^`(\S+)`.*?^```\w+\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert [path.split("/")[0] for path, _ in blocks] == ["clients", "conf", "tests"]
    for path, text in blocks:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, "utf-8")
    own = [*clients.personalization.__path__, str(tmp_path / "clients" / "personalization")]
    monkeypatch.setattr(clients.personalization, "__path__", own)
    return tmp_path


def test_the_example_trains_and_keeps_what_it_says(blocks, tmp_path, good_hospitals, tiny_overrides):
    overrides = [*tiny_overrides(good_hospitals), "personalization=local_bias"]
    folder = RunDir(tmp_path / "run")
    launch_run(RunSpec.compose(overrides, folder, blocks / "conf"))
    shared = load_file(folder.path / "model.safetensors")
    kept = load_file(folder.site_dir("north") / PRIVATE_FILE)
    assert shared
    assert kept
    assert not [name for name in shared if name.endswith(".bias")]
    assert all(name.endswith(".bias") for name in kept)


def test_the_examples_own_test_passes(blocks):
    scope = {}
    exec((blocks / "tests/clients/personalization/test_local_bias.py").read_text("utf-8"), scope)
    [test] = [value for name, value in scope.items() if name.startswith("test_")]
    test()
