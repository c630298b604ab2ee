"""What it takes until the first round begins: processor seconds of many virtual sites, and of a start from nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.scale_run import TABULAR, write_hospitals

IMAGE = ["model.text=null", "data.image.size=32"]
PATIENTS = 60  # of the synthetic federation with images
_SHORT = ["strategy.rounds=1", "secagg=off"]


class _FirstRoundBegins(BaseException):  # no Exception: it is no fault, and nothing explains it
    """The first round begins: everything before it is done."""


@contextmanager
def _stop_at_first_round() -> Iterator[None]:
    """End the run inside when its first round begins."""
    from fedhealth.runs.run_dir import RunDir

    append = RunDir.append_event

    def append_or_stop(run: RunDir, kind: str, **fields: object) -> None:
        if kind == "round_started":
            raise _FirstRoundBegins
        append(run, kind, **fields)

    RunDir.append_event = append_or_stop  # type: ignore[method-assign, assignment]
    try:
        yield
    except _FirstRoundBegins:
        pass
    finally:
        RunDir.append_event = append  # type: ignore[method-assign]


def run_to_first_round(folder: Path, overrides: Sequence[str]) -> None:
    """Launch a run as `fedhealth run` does, and end it when its first round begins."""
    from fedhealth.utils.import_modules import import_modules, pause_collection

    with pause_collection():
        from fedhealth.experiment.launch import RUN_MODULES, launch_run
        from fedhealth.experiment.run_spec import RunSpec
        from fedhealth.runs.run_dir import RunDir

    import_modules(RUN_MODULES)
    with _stop_at_first_round():
        launch_run(RunSpec.compose(overrides, RunDir(folder)))


def measure_setup(sites: int) -> float:
    """Return the processor seconds from the launch to the first round, in a process that has imported everything."""
    with tempfile.TemporaryDirectory() as folder:
        few = [*write_hospitals(Path(folder) / "few", 2), *TABULAR, *_SHORT]
        run_to_first_round(Path(folder) / "warm", few)
        many = [*write_hospitals(Path(folder) / "many", sites), *TABULAR, *_SHORT]
        started = time.process_time()
        run_to_first_round(Path(folder) / "run", many)
        return time.process_time() - started


def write_start_data(folder: Path, kind: str) -> list[str]:
    """Write the data of a start, `tabular` or `image`, prepare them as the run before it did; return the overrides."""
    from fedhealth.data.synthetic import write_hospitals as write_synthetic

    if kind == "tabular":
        overrides = [*write_hospitals(folder / "data", 4), *TABULAR, *_SHORT]
    else:
        write_synthetic(folder / "data", patients=PATIENTS)
        here = [f"data.root='{folder / 'data'}'", f"data.cache='{folder / 'cache'}'"]
        overrides = [*here, *IMAGE, *_SHORT, "training.threads=1"]
    run_to_first_round(folder / "prepared", overrides)
    return overrides


def measure_start(kind: str, repeats: int) -> float:
    """Return the processor seconds of a run until its first round over those of `import torch`, the median of pairs.

    Args:
        kind: `tabular` or `image`.
        repeats: pairs.

    """
    with tempfile.TemporaryDirectory() as folder:
        overrides = write_start_data(Path(folder), kind)
        ratios = []
        for number in range(repeats):
            run = f"from benchmarks.scale_setup import run_to_first_round as run; from pathlib import Path; run(Path({str(Path(folder) / str(number))!r}), {overrides!r})"  # noqa: E501
            ratios.append(_measure_process(run) / _measure_process("import torch"))
        return sorted(ratios)[repeats // 2]


def _measure_process(code: str) -> float:
    """Return the processor seconds of a new Python process that runs some code."""
    before = os.times()
    subprocess.run([sys.executable, "-c", code], check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system
