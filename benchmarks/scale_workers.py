"""What the second core gives: wall time of a run with one worker over that with two, the same seeds."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fedhealth.data.synthetic import write_hospitals
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.runs.run_dir import RunDir

_RUN = [
    "experiment=demo",
    "privacy=none",
    "secagg=off",
    "baselines.local_only=false",
    "baselines.centralised=false",
    "baselines.modalities=false",
    "evaluation.bootstrap=10",
]
PATIENTS, STEPS = 200, 40


def measure_two_core_speedup(rounds: int) -> float:
    """Return the seconds of a round with one worker over those with two; the median over rounds but the first."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_hospitals(folder / "data", patients=PATIENTS)
        data = [f"data.root='{folder / 'data'}'", f"data.cache='{folder / 'cache'}'"]
        overrides = [*_RUN, *data, f"strategy.rounds={rounds}", f"training.local_steps={STEPS}"]
        one, two = (_measure_round(folder / str(n), [*overrides, f"runtime.workers={n}"]) for n in (1, 2))
    return one / two


def _measure_round(folder: Path, overrides: Sequence[str]) -> float:
    run = RunDir(folder)
    launch_run(RunSpec.compose(overrides, run))
    seconds = [event["seconds"] for event in run.read_events()[0] if event["event"] == "round_completed"]
    return statistics.median(seconds[1:])
