"""The run directory: what a run was, how it stands, what happened, what it made. Nothing in it is half-written."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from fedhealth.errors import ConfigError, FedhealthError, storage_fault
from fedhealth.utils.atomic_io import _plain, read_json, write_json

PRIVATE = "private.safetensors"  # in a site's folder: arrays it trains and does not share, a method's memory
PERSONAL = "personal.safetensors"  # beside it: the arrays in which its own final model differs from the shared one
PREDICTIONS = "predictions.npz"  # beside it: the final model's scores of its test studies
MODEL = "model"  # in a run directory: the exported model's folder
GROUPS = "groups.json"  # in a run directory: the final model's scores by group of patients
STATISTICS = "statistics.json"  # in the directory of a description: what the counts say, small ones left out
COUNTS = "counts.npz"  # in the directory of a description: summed counts by table
SERVED = ".served"  # in the directory of a run in the hospitals: locked by the process that does the rounds
METRICS = "metrics.prom"  # in a run directory, and in a site's folder `run`: for Prometheus
AUDIT = "audit.json"  # in a run directory: what `fedhealth audit` found

log = logging.getLogger("fedhealth.run")


_LOOK_SECONDS = 0.2  # between two tries to lock


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Send fedhealth's log to a file: a terminal shows what matters, the file has everything."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger = logging.getLogger("fedhealth")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


@dataclass(frozen=True)
class RunDir:
    """One run's folder: run.json (state), events.jsonl (what happened), and the results beside them."""

    path: Path

    @property
    def about(self) -> dict[str, Any]:
        """The content of run.json."""
        return dict(read_json(self.path / "run.json") or {})

    def begin(self, about: dict[str, Any]) -> None:
        """Create the folder and mark the run as running.

        Raises:
            ConfigError: the folder already holds a run.

        """
        if (self.path / "run.json").exists():
            raise ConfigError(f"{self.path} already holds a run.", "Choose another hydra.run.dir.")
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "run.json", {"state": "running", "started": _now(), **about})

    @contextmanager
    def held(self, part: str = "", patience: float = 0.0) -> Iterator[None]:
        """Keep every other process from working on this run, or on a part of it (`SERVED`).

        Args:
            part: of the work; the whole where none is named.
            patience: seconds to wait for another process to end.

        Raises:
            ConfigError: one works on it.

        """
        ends = time.monotonic() + patience
        with (self.path / f"{part}.lock").open("w") as lock:
            while not _locked(lock):
                if time.monotonic() >= ends:
                    raise ConfigError(f"The run in {self.path} is running.", "Wait for it, or stop it first.")
                time.sleep(_LOOK_SECONDS)
            yield

    @property
    def alive(self) -> bool:
        """Whether some process holds the run."""
        return self._is_held(".lock")

    @property
    def served(self) -> bool:
        """Whether a server application does the run's rounds."""
        return self._is_held(f"{SERVED}.lock")

    def _is_held(self, name: str) -> bool:
        if not (self.path / name).is_file():
            return False
        with (self.path / name).open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def update(self, **fields: object) -> None:
        """Change fields of run.json."""
        write_json(self.path / "run.json", {**self.about, **fields})

    def complete(self) -> None:
        """Mark the run as completed."""
        self.update(state="completed", finished=_now())

    def fail(self, fault: BaseException) -> None:
        """Mark the run as failed (or stopped by the user) and say why, as far as the disk lets us."""
        stopped = isinstance(fault, KeyboardInterrupt)
        said = storage_fault(fault) or fault
        kind = type(said).__name__
        problem = said.problem if isinstance(said, FedhealthError) else f"{kind}: {said}"
        advice = said.advice if isinstance(said, FedhealthError) else ""
        error = {"kind": kind, "problem": problem, "advice": advice}
        try:
            self.update(state="stopped" if stopped else "failed", finished=_now(), error=error)
        except OSError as full:  # the first fault is the one to tell; nobody holds the run, which shows
            log.warning("run.json could not be written: %s", full)

    def event(self, kind: str, **fields: object) -> None:
        """Append one line to events.jsonl; a disk that does not take it costs the line and no run."""
        line = json.dumps({"time": round(time.time(), 3), "event": kind, **fields}, default=_plain)
        try:
            with (self.path / "events.jsonl").open("ab") as file:
                file.write(b"\n" * _is_torn(self.path / "events.jsonl") + line.encode() + b"\n")
        except OSError as fault:
            log.warning("the event could not be written (%s): %s", fault, line)

    def events(self, start: int = 0) -> tuple[list[dict[str, Any]], int]:
        """Return the events from byte `start` on, and where to go on reading.

        A line being written is left for later, one that a full disk cut off is passed over.
        """
        path = self.path / "events.jsonl"
        if not path.is_file():
            return [], start
        with path.open("rb") as file:
            file.seek(start)
            whole, _, _ = file.read().rpartition(b"\n")
        return list(_parsed(whole)), start + len(whole) + (1 if whole else 0)

    def site(self, name: str) -> Path:
        """Return the private folder of a site that runs on this machine."""
        return self.path / "sites" / name


def _locked(file: IO[str]) -> bool:
    """Lock a file for this process alone, and tell whether that was possible."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _parsed(content: bytes) -> Iterator[dict[str, Any]]:
    for line in content.split(b"\n"):
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and "event" in event:
                yield event


def _is_torn(path: Path) -> bool:
    """Tell whether a file's last line has no end."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
