"""The check of a machine with a GPU reports a step that fails, hangs or lacks a package, and goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import device_check
from benchmarks.device_check import TEST_FILES, Step, list_steps, run_steps, select_steps, summarize_training

ROOT = Path(__file__).resolve().parents[2]


def python(code):
    return (sys.executable, "-S", "-c", code)


def test_a_step_that_fails_or_hangs_stops_no_other(tmp_path):
    found = run_steps(
        [
            Step("good", python("print('noise'); print('{\"speed\": 3}')"), 30),
            Step("broken", python("raise SystemExit('no torch here')"), 30),
            Step("slow", python("import time; time.sleep(60)"), 0.5),
            Step("absent", ("/no/such/program",), 30),
            Step("last", python("print('= 7 passed =')"), 30),
        ],
        tmp_path,
    )
    steps = found["steps"]
    assert steps["good"]["speed"] == 3
    assert steps["broken"]["error"] == "exit code 1"
    assert steps["broken"]["last_lines"] == ["no torch here"]
    assert "no end within" in steps["slow"]["error"]
    assert "/no/such/program" in steps["absent"]["error"]
    assert steps["last"]["summary"] == "7 passed"
    assert found["failed"] == ["broken", "slow", "absent"]
    assert "=== broken\nno torch here" in (tmp_path / "steps.log").read_text()


def test_no_step_starts_after_the_time_of_all(tmp_path):
    found = run_steps([Step("late", python("print(1)"), 30)], tmp_path, 1.0)
    assert found["failed"] == ["late"]
    assert not (tmp_path / "steps.log").exists()


def test_every_test_file_has_a_test_for_a_gpu():
    for name in TEST_FILES:
        text = (ROOT / name).read_text()
        assert any("def test_" in line and ("cuda" in line or "gpu" in line) for line in text.splitlines()), name
    others = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if "torch.cuda.is_available()" in path.read_text() and path != Path(__file__)
    ]
    assert set(others) <= set(TEST_FILES)


def test_steps_are_chosen_by_name_or_by_its_start():
    steps = [*list_steps("cuda")]
    assert select_steps(steps, []) == steps
    assert [step.name for step in select_steps(steps, ["plain_bf16", "equality"])] == ["equality", "plain_bf16"]
    assert {step.name[:7] for step in select_steps(steps, ["private"])} == {"private"}


def test_the_steps_end_within_eight_minutes():
    assert device_check.TOTAL_SECONDS < 470
    assert len({step.name for step in list_steps("cuda")}) == len([*list_steps("cuda")])


def test_the_result_has_the_speed_of_training_and_what_privacy_costs_of_it():
    steps = {
        "plain_float32": {"samples_per_second": 400.0, "seconds": 20},
        "plain_bf16": {"samples_per_second": 1000.0},
        "private_float32": {"samples_per_second": 100.0},
        "private_bf16": {"error": "exit code 1"},
        "equality": {"seconds": 4},
    }
    speeds = {"plain_float32": 400.0, "plain_bf16": 1000.0, "private_float32": 100.0}
    assert summarize_training(steps) == speeds | {"private_over_plain_float32": 0.25}


@pytest.mark.parametrize("wheels", [False, True])
def test_the_script_prints_one_json_object_last_without_any_package(tmp_path, wheels):
    """An interpreter that has neither torch nor pytest: the check still says so in its result."""
    empty = tmp_path / "python"
    empty.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    empty.chmod(0o755)
    (tmp_path / "wheels").mkdir()
    command = [ROOT / "scripts" / "device-check.sh", "--only", "environment"]
    command += ["--wheels", tmp_path / "wheels"] if wheels else []
    made = subprocess.run(
        ["bash", *map(str, command)],
        env={**os.environ, "PYTHON": str(empty), "OUT": str(tmp_path / "out"), "PYTHONPATH": ""},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    found = json.loads(made.stdout.strip().splitlines()[-1])
    assert made.returncode == 0
    assert found == json.loads((tmp_path / "out" / "result.json").read_text())
    assert ("installing the wheels failed" in made.stderr) is wheels  # the folder is empty
