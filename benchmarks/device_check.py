"""Check a machine with a GPU: its tests, mixed precision against float32, and the speed of training.

`scripts/device-check.sh` starts it. Every step is a process with a time limit of its own, so a step that fails or hangs
is reported and stops no other. The last line is one JSON object; logs lie in the output folder. Its `training` has the
samples per second of the dermatology model trained whole at 160 px, for each variant, and of private over plain ones
(`private_over_plain_float32`, `private_over_plain_bf16`). This file imports the standard library only: it reports also
where a package is missing.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TOTAL_SECONDS = 440.0  # of all steps together
# Tests that use a GPU have it in their name, and are skipped without one.
TEST_FILES = (
    "tests/fedhealth/privacy/engines/test_engines.py",
    "tests/fedhealth/privacy/mechanisms/test_gaussian_noise.py",
    "tests/fedhealth/site/check/test_machine.py",
    "tests/fedhealth/training/test_precision.py",
    "tests/fedhealth/training/test_dpsgd_trainer.py",
)
VARIANTS = (
    "plain_float32",
    "plain_float32_channels_last",
    "plain_bf16",
    "plain_bf16_channels_last",
    "private_float32",
    "private_bf16",
    "private_bf16_channels_last",
    "plain_bf16_channels_last_compiled",
)


@dataclass(frozen=True)
class Step:
    """One process of the check.

    Attributes:
        name: of its log and its entry in the result.
        command: what is run.
        seconds: its time limit.

    """

    name: str
    command: tuple[str, ...]
    seconds: float


def main() -> None:
    """Run every step and print one JSON object as the last line."""
    parser = argparse.ArgumentParser(description="Check a machine with a GPU.")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu: a dry run with tiny models")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "device-check", help="folder of the logs")
    parser.add_argument("--only", nargs="*", default=[], help="names of steps, or starts of names")
    parser.add_argument("--seconds", type=float, default=TOTAL_SECONDS, help="for all steps together")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "steps.log").unlink(missing_ok=True)
    found = run_steps(select_steps([*list_steps(arguments.device)], arguments.only), arguments.out, arguments.seconds)
    found["training"] = summarize_training(found["steps"])
    text = json.dumps(found)
    (arguments.out / "result.json").write_text(text + "\n")
    print(text)


def select_steps(steps: Sequence[Step], only: Sequence[str]) -> list[Step]:
    """Return the steps with these names; a name that no step has is the start of names."""
    names = {step.name for step in steps}
    starts = tuple(name for name in only if name not in names)
    return [step for step in steps if not only or step.name in only or (starts and step.name.startswith(starts))]


def list_steps(device: str) -> Iterator[Step]:
    """Yield the steps, the most important first."""
    measure = (sys.executable, "-m", "benchmarks.device_steps", "--device", device)
    yield Step("environment", (*measure, "environment"), 90)
    yield Step("equality", (*measure, "equality"), 90)
    yield Step("tests", make_test_command(), 150)
    for name in VARIANTS:
        yield Step(name, (*measure, "throughput", name), 150 if "compiled" in name else 60)


def make_test_command() -> tuple[str, ...]:
    """Return the command of the tests; the machine's own packages may warn of what the lock's do not."""
    options = ["-q", "-rfEs", "--continue-on-collection-errors", "-k", "cuda or gpu", "-p", "no:cacheprovider"]
    options += ["-o", "filterwarnings=default", "-o", "addopts=--import-mode=importlib"]
    return (sys.executable, "-m", "pytest", *options, *TEST_FILES)


def summarize_training(steps: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the samples per second of each variant that was measured, and those of private over plain training."""
    measured = {name: steps[name].get("samples_per_second") for name in VARIANTS if name in steps}
    speeds = {name: float(speed) for name, speed in measured.items() if speed}
    pairs = {name: name.replace("private", "plain") for name in speeds if name.startswith("private")}
    return speeds | {
        name.replace("private", "private_over_plain"): round(speeds[name] / speeds[plain], 3)
        for name, plain in pairs.items()
        if plain in speeds
    }


def run_steps(steps: Sequence[Step], out: Path, seconds: float = TOTAL_SECONDS) -> dict[str, Any]:
    """Return the result of every step by name, with its seconds; no step is started after the time of all is over."""
    started = time.monotonic()
    found: dict[str, object] = {}
    for step in steps:
        left = seconds - (time.monotonic() - started)
        result: dict[str, object] = {"error": "not started: no time left"} if left < 5 else run_step(step, left, out)
        print(f"{step.name}: {json.dumps(result)}", flush=True)
        found[step.name] = result
    failed = [name for name, result in found.items() if isinstance(result, dict) and "error" in result]
    return {"steps": found, "failed": failed, "seconds": round(time.monotonic() - started, 1)}


def run_step(step: Step, left: float, out: Path) -> dict[str, object]:
    """Run one process and return the JSON object of its last line, or why there is none."""
    started = time.monotonic()
    log = out / "step.log"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    reason = ""
    with log.open("w") as output:
        try:
            code = subprocess.run(
                step.command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, timeout=min(step.seconds, left), check=False,
            ).returncode  # fmt: skip
            reason = f"exit code {code}" if code else ""
        except subprocess.TimeoutExpired:
            reason = f"no end within {min(step.seconds, left):.0f} s"
        except OSError as fault:
            reason = str(fault)
    text = log.read_text(errors="replace").strip()
    log.unlink()
    with (out / "steps.log").open("a") as every:
        every.write(f"=== {step.name}\n{text}\n")
    lines = text.splitlines() or [""]
    result = read_result(lines[-1])
    if reason:
        result |= {"error": reason, "last_lines": [line[-300:] for line in lines[-6:]]}
    return result | {"seconds": round(time.monotonic() - started, 1)}


def read_result(line: str) -> dict[str, object]:
    """Return the JSON object in a line; any other line as a summary."""
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"summary": line.strip(" =")[-200:]}


if __name__ == "__main__":
    main()
