"""A long run of many small hospitals in which something goes wrong all the time, watched for what it leaks.

    python -m tests.faults.soak FOLDER ROUNDS SITES SECAGG

Trains in this process, sites and lead, with faults drawn at random (a fixed seed), and prints one line of JSON: rounds
completed, faults by kind, and after every round the process's memory, open files and threads.
"""

import gc
import json
import os
import random
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import strategies.checkpoint
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.protocol.messages import EVALUATE, HANDSHAKE, TRAIN, Directive
from fedhealth.runs.run_dir import RunDir
from fedhealth.types import State
from tests.conftest import tiny_model, write_site
from tests.faults.unreliable import UnreliableGrid

_CHANCE = 0.8  # of something in a round, about: a secure sum of 16 lives with five missing, one of 6 with one
_FAULTS = {
    TRAIN: ("raises", "declines", "garbage", "empty", "nan", "shapes", "counts", "late_", "twice"),
    HANDSHAKE: ("declines", "garbage", "twice"),
    EVALUATE: ("twice",),
}
_OTHERS = ("declines", "garbage", "twice")  # to questions of secure aggregation
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Watch:
    """What goes wrong with what chance, what did, and what the process held after each round."""

    seed: int
    chance: float
    faults: Counter[str] = field(default_factory=Counter)
    memory: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def plan(self, directive: Directive, site: str, kind: str) -> str:
        """Draw the fault of an answer."""
        if directive.exchange == 1 or self._random.random() > self.chance:
            return ""
        fault = self._random.choice(_FAULTS.get(kind, _OTHERS))
        self.faults[fault] += 1
        return fault

    def look(self) -> None:
        """Note what the process holds."""
        gc.collect()
        self.memory.append(int(Path("/proc/self/statm").read_text("ascii").split()[1]) * _PAGE)
        self.files.append(sum(1 for _ in Path("/proc/self/fd").iterdir()))
        self.threads.append(threading.active_count())

    @contextmanager
    def disk(self) -> Iterator[None]:
        """A disk that now and then does not take a checkpoint; every round ends with an attempt at one."""
        genuine = strategies.checkpoint.write_array_file

        def unreliable(path: Path, arrays: State, about: Mapping[str, str]) -> None:
            self.look()
            if self._random.random() < self.chance:
                self.faults["disk"] += 1
                raise OSError(28, "No space left on device", str(path))
            genuine(path, arrays, about)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(strategies.checkpoint, "write_array_file", unreliable)
            patch.setattr("fedhealth.runtime.local.InProcessGrid", partial(UnreliableGrid, plan=self.plan))
            patch.setattr("fedhealth.report.render.render_run_report", lambda folder: "")
            yield


def soak(folder: Path, rounds: int, sites: int, secagg: str) -> Watch:
    """Run it."""
    names = [f"site{number:02d}" for number in range(sites)]
    for seed, name in enumerate(names):
        write_site(folder / "hospitals", name, patients=12, seed=seed)
    watch = Watch(seed=7, chance=min(0.1, _CHANCE / sites))
    overrides = _overrides(folder / "hospitals", names, rounds, secagg)
    with watch.disk():
        launch_run(RunSpec.compose(overrides, RunDir(folder / "run")))
    return watch


def _overrides(root: Path, names: list[str], rounds: int, secagg: str) -> list[str]:
    return [
        *tiny_model(root, names),
        "training=sgd",
        "training.threads=1",
        "training.local_steps=1",
        "personalization=ditto",
        f"strategy.rounds={rounds}",
        "strategy.quorum=0.5",
        f"strategy.min_sites={max(3, len(names) // 2)}",  # fewer make no secure sum
        "strategy.staleness=0.5",
        "strategy.round_timeout=3",
        f"secagg={secagg}",
    ]


def main() -> None:
    """Run it as its own process."""
    folder, rounds, sites, secagg = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    watch = soak(folder, rounds, sites, secagg)
    events = Counter(event["event"] for event in RunDir(folder / "run").read_events()[0])
    state = RunDir(folder / "run").info.state
    series = {"memory": watch.memory, "files": watch.files, "threads": watch.threads}
    peak = int(np.max(watch.memory))
    print(json.dumps({"state": state, "events": events, "faults": watch.faults, "peak": peak, **series}))


if __name__ == "__main__":
    main()
