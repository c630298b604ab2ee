"""Our run on one machine beside stock Flower's simulation, FL4Health, NVIDIA FLARE's simulator and a bare loop.

`python -m benchmarks.peers [--quick] [--environments FOLDER]` prints a table and, as its last line, one JSON object.
The first call makes the peers' environments (about 15 GB, kept in FOLDER). Same arrays, network, optimizer and steps,
one thread; each contestant is a process of its own, started in turn, in the opposite order in every second turn.
Medians of processor seconds, wall seconds and peak proportional memory of all its processes, from start to end. The
bare loop does the steps of all sites and nothing else. docs/researcher.md says what is compared and what is not.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.peers_environments import ENVIRONMENTS, MissingEnvironmentError, prepare_environment
from benchmarks.peers_figures import BARE, OURS, Outcome, Series, compute_figures, make_table
from benchmarks.peers_ours import make_command
from benchmarks.peers_scores import read_own_run, read_sent, score_model
from benchmarks.peers_tasks import WRITERS
from benchmarks.peers_usage import CommandFailedError, measure_command

VARIANTS = ("plain", "secagg", "dp")
LIMIT = 900.0  # seconds for one run
_SCRIPTS = {"flower": {"secagg": "flower_secagg"}}
_WITH_SECAGG = (OURS, "flower")  # the only peer of the three whose simulation has it
_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Bench:
    """Where the benchmark runs.

    Attributes:
        folder: of data and results.
        pythons: of each contestant but ours, by name.

    """

    folder: Path
    pythons: Mapping[str, Path]

    def run(self, task: str, variant: str, contestant: str, *more: str) -> Outcome:
        """Run one contestant; our own takes more overrides.

        Raises:
            CommandFailedError: it failed.

        """
        data, out = self.folder / task, Path(tempfile.mkdtemp(dir=self.folder))
        if contestant == OURS:
            command = [*make_command(task, variant, data, out), *more]
        else:
            script = f"benchmarks.peers_contestants.{_SCRIPTS.get(contestant, {}).get(variant, contestant)}"
            command = [str(self.pythons[contestant]), "-m", script, str(data), variant, str(out)]
        usage = measure_command(command, make_environment_variables(out), out, LIMIT)
        score, sent = read_own_run(out / "run") if contestant == OURS else (score_model(data, out), read_sent(out))
        return Outcome(usage, score, sent)


def make_environment_variables(out: Path) -> dict[str, str]:
    """Return the variables of a contestant: one thread, no reports to anybody, files of its own."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    silent = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    return {**kept, **silent, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1", "FLWR_HOME": str(out / "flower")}


def prepare_pythons(folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Return each environment's Python, and the reasons for those that cannot be made."""
    pythons, missing = {BARE: Path(sys.executable)}, {}
    for environment in ENVIRONMENTS:
        try:
            pythons[environment.name] = prepare_environment(environment, folder)
        except MissingEnvironmentError as fault:
            missing[environment.name] = str(fault)
    return pythons, missing


def list_runs(contestants: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yield (task, variant, contestant)."""
    for task in WRITERS:
        for variant in VARIANTS:
            for contestant in contestants:
                if variant != "secagg" or contestant in _WITH_SECAGG:
                    yield task, variant, contestant


def measure_all(bench: Bench, turns: int, missing: dict[str, str]) -> list[Series]:
    """Return all series; a peer that fails is added to `missing`."""
    runs = list(list_runs([BARE, OURS, *(name for name in bench.pythons if name != BARE)]))
    outcomes: dict[tuple[str, str, str], list[Outcome]] = {run: [] for run in runs}
    for turn in range(turns):
        for run in runs[:: -1 if turn % 2 else 1]:
            if ", ".join(run) in missing:
                continue
            try:
                outcomes[run].append(found := bench.run(*run))
            except CommandFailedError as fault:
                if run[2] in (OURS, BARE):
                    raise
                missing[", ".join(run)] = str(fault)
                print(fault, file=sys.stderr)
                continue
            print(f"{' '.join(run):28} {found.usage.cpu:7.1f} CPU s {found.usage.wall:7.1f} s", flush=True)
    return [Series(*run, each) for run, each in outcomes.items() if each]


def main() -> None:
    """Measure, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one turn instead of three")
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fedhealth-peers"
    parser.add_argument("--environments", type=Path, default=default, metavar="FOLDER", help=f"default: {default}")
    options = parser.parse_args()
    pythons, missing = prepare_pythons(options.environments.resolve())
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), pythons)
        for task, write in WRITERS.items():
            write(bench.folder / task)
            bench.run(task, "plain", OURS, "strategy.rounds=1")  # reads the images, which later runs find in the cache
        found = measure_all(bench, 1 if options.quick else 3, missing)
    Console(width=140).print(make_table(found, missing))
    print(json.dumps({**compute_figures(found), "not_measured": missing}))


if __name__ == "__main__":
    main()
