import csv

import numpy as np
import pytest

from benchmarks import peers, peers_environments
from benchmarks.peers_contestants import bare, task
from benchmarks.peers_environments import ENVIRONMENTS, MissingEnvironmentError, find_python, prepare_environment
from benchmarks.peers_ours import make_command
from benchmarks.peers_scores import compute_auroc, read_own_run, read_sent, score_model
from benchmarks.peers_tasks import ROWS, VARIABLES, WRITERS
from fedhealth.data.image.load import load_image


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setitem(ROWS, "train", 40)
    monkeypatch.setitem(ROWS, "test", 40)


@pytest.mark.parametrize("kind", WRITERS)
def test_our_table_and_the_others_arrays_hold_the_same_values(tmp_path, few, kind):
    WRITERS[kind](tmp_path / kind)
    with (tmp_path / kind / "patients.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 80 * len(task.SITES)
    mine = [row for row in rows if row["hospital"] == "b" and row["split"] == "test"]
    with np.load(tmp_path / kind / "b.npz") as stored:
        inputs, labels = stored["test_inputs"], stored["test_labels"]
    assert labels.ravel().tolist() == [float(row["label"]) for row in mine]
    if kind == "image":
        for row, pixels in zip(mine, inputs, strict=True):
            np.testing.assert_array_equal(load_image(tmp_path / kind / row["image"], task.SIDE, 1), pixels)
    else:
        center, scale = VARIABLES["ldh"]
        expected = [(float(row["ldh"]) - center) / scale for row in mine]
        np.testing.assert_allclose(inputs[:, 2 * [*VARIABLES].index("ldh")], expected, rtol=1e-6)


def test_ours_and_the_bare_loop_train_the_same_network_on_the_same_rows(tmp_path, few, monkeypatch):
    """Ours has one more array, the token of a missing modality, which these rows never use."""
    from safetensors.numpy import load_file

    from fedhealth.experiment.launch import launch_run
    from fedhealth.experiment.run_spec import RunSpec
    from fedhealth.runs.run_dir import RunDir

    data, out = tmp_path / "tabular", tmp_path / "out"
    WRITERS["tabular"](data)
    out.mkdir()
    monkeypatch.setattr(task.sys, "argv", ["bare", str(data), "plain", str(out)])
    monkeypatch.setattr(bare, "ROUNDS", 1)
    bare.main()
    overrides = [each for each in make_command("tabular", "plain", data, out)[2:] if not each.startswith("hydra.")]
    launch_run(RunSpec.compose([*overrides, "strategy.rounds=1"], RunDir(out / "run")))
    score, sent = read_own_run(out / "run")
    with np.load(out / "model.npz") as stored:
        shapes = sorted(stored[name].shape for name in stored.files)
    own = [value.shape for name, value in load_file(out / "run" / "model.safetensors").items() if "missing" not in name]
    assert sorted(own) == shapes
    assert sent > 4 * sum(map(np.prod, shapes)) * len(task.SITES)
    assert 0.5 < score <= 1
    assert 0.5 < score_model(data, out) <= 1


def test_auroc_counts_pairs():
    assert compute_auroc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([0, 0, 1, 1])) == 0.875


def test_what_sites_send_is_known_only_if_they_note_it(tmp_path):
    assert read_sent(tmp_path) is None
    (tmp_path / "bytes").write_text("10\n20\n", "ascii")
    assert read_sent(tmp_path) == 30


def test_secure_aggregation_is_asked_only_of_those_that_have_it():
    runs = list(peers.list_runs(["bare", "fedhealth", "flower", "nvflare", "fl4health"]))
    assert len(runs) == len(set(runs)) == 24
    assert {contestant for _, variant, contestant in runs if variant == "secagg"} == {"fedhealth", "flower"}


def test_an_environment_that_cannot_be_made_is_told(tmp_path, monkeypatch):
    def refuse(folder, *arguments):
        raise MissingEnvironmentError("no network")

    monkeypatch.setattr(peers_environments, "_run_uv", refuse)
    pythons, missing = peers.prepare_pythons(tmp_path)
    assert [*pythons] == ["bare"]
    assert missing == dict.fromkeys((each.name for each in ENVIRONMENTS), "no network")


def test_an_environment_is_made_once(tmp_path, monkeypatch):
    calls = []

    def make(folder, *arguments):
        calls.append(arguments[0])
        python = tmp_path / "flower" / "bin" / "python"
        python.parent.mkdir(parents=True, exist_ok=True)
        python.write_text("#!/bin/sh\n")
        python.chmod(0o755)

    monkeypatch.setattr(peers_environments, "_run_uv", make)
    assert prepare_environment(ENVIRONMENTS[0], tmp_path) == prepare_environment(ENVIRONMENTS[0], tmp_path)
    assert calls == ["venv", "pip"]


def test_an_interpreter_of_another_version_is_not_taken(tmp_path, monkeypatch):
    fake = tmp_path / "python3.99"
    fake.write_text("#!/bin/sh\necho 3.98\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert find_python("3.99") is None
    fake.write_text("#!/bin/sh\necho 3.99\n")
    assert find_python("3.99") == str(fake)


@pytest.mark.parametrize("name", [each.name for each in ENVIRONMENTS])
def test_locks_pin_every_package(name):
    lines = (peers_environments._LOCKS / f"{name}.lock").read_text("utf-8").splitlines()
    assert len(lines) > 50
    assert all("==" in line for line in lines)
