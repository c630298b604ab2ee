"""examples/: every script and the notebook run as they are (the Flower apps: test_flower.py)."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from opacus.optimizers import DPOptimizer

from fedhealth.errors import PrivacyError
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.privacy import NoisyOptimizer
from fedhealth.runs.run_dir import RunDir
from fedhealth.secagg.errors import ProtocolViolationError

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def load_example(name):
    return runpy.run_path(str(EXAMPLES / name))


@pytest.mark.parametrize(
    ("present", "patients"), [(("north", "east", "south", "west"), 440), (("north", "east", "south"), 400)]
)
def test_the_secure_sum_is_the_sum(present, patients):
    example = load_example("secure_sum.py")
    sums = example["sum_counts"](present)
    assert sums["patients"].tolist() == [patients]
    assert sums["ages"].tolist() == np.sum([example["COUNTS"][name]["ages"] for name in present], axis=0).tolist()


def test_a_sum_of_two_hospitals_is_not_opened():
    with pytest.raises(ProtocolViolationError):
        load_example("secure_sum.py")["sum_counts"](("north", "east"))


def test_the_private_step_books_what_it_spends(tmp_path):
    assert issubclass(NoisyOptimizer, DPOptimizer)
    torch.manual_seed(0)
    example = load_example("private_step.py")
    model, spent = example["train_privately"](tmp_path)
    assert 3.5 < spent <= 4.0
    x = torch.randn(500, 8)
    assert ((model(x).argmax(1) == 1) == (x[:, 0] > 0)).float().mean() > 0.8
    assert example["train_privately"](tmp_path)[1] > 5  # the first model left: the second one is booked in full
    with pytest.raises(PrivacyError):
        train_often(example["train_privately"], tmp_path)


def train_often(train, folder):
    for _ in range(4):
        train(folder)


def test_a_run_is_read(tmp_path, good_hospitals, tiny_overrides):
    folder = RunDir(tmp_path / "run")
    launch_run(RunSpec.compose(tiny_overrides(good_hospitals), folder))
    command = [sys.executable, str(EXAMPLES / "read_run.py"), str(folder.path)]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("test AUROC ")
    assert lines[-1] == f"report: {folder.path / 'report.html'}"


def test_the_notebook_runs(tmp_path, monkeypatch):
    """Its kernel is a process of its own."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(EXAMPLES / "first_federation.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "stored outputs would be out of date"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[1].outputs[-1]["data"]["text/plain"] == "'completed'"
    assert "auroc" in code[2].outputs[-1]["data"]["text/plain"]
    assert "<iframe sandbox" in code[4].outputs[-1]["data"]["text/html"]


def test_every_example_is_shown_in_the_documentation():
    page = (ROOT / "docs" / "examples.md").read_text("utf-8")
    shown = re.findall(r'^--8<-- "([^":]+)(?::(\w+))?"$', page, re.MULTILINE)
    assert len(shown) == page.count("--8") == 7  # a formatter once made comparisons of these marks
    for name, section in shown:
        text = (EXAMPLES / name).read_text("utf-8")
        assert not section or f"--8<-- [start:{section}]" in text
