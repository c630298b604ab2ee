"""The run directory: run.json (configuration and state), events.jsonl, results and the run's lock.

Files are replaced atomically, so that a reader never sees a half-written one.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedhealth.errors import ConfigError, FedhealthError, as_storage_error
from fedhealth.runs.run_metadata import RUN_FILE, RunError, RunMetadata, read_metadata, write_metadata
from fedhealth.utils.atomic_io import _to_builtin
from fedhealth.utils.file_lock import is_locked, lock_file
from fedhealth.utils.plain_files import is_plain_file

PRIVATE_FILE = (
    "private.safetensors"  # in a site's folder: arrays that the site trains and does not share, and a method's state
)
PERSONAL_FILE = (
    "personal.safetensors"  # in a site's folder: arrays in which its final model differs from the shared one
)
LOG_FILE = "fedhealth.log"  # in a run directory: the full log
PREDICTIONS_FILE = "predictions.npz"  # in a site's folder: scores of the final model on its test studies
MODEL_DIR = "model"  # in a run directory: folder of the exported model
GROUPS_FILE = "groups.json"  # in a run directory: metrics of the final model by group of patients
STATISTICS_FILE = "statistics.json"  # in the directory of `purpose=describe`: statistics, small counts suppressed
COUNTS_FILE = "counts.npz"  # in the same directory: counts by table, summed over sites
SERVER_LOCK = ".served"  # lock of the server app process that runs the rounds
METRICS_FILE = "metrics.prom"  # in a run directory and in a site's folder `run`: metrics for Prometheus
AUDIT_FILE = "audit.json"  # in a run directory: result of `fedhealth audit`

log = logging.getLogger("fedhealth.run")

_EARLY_EVENTS = ("private", "caution", "preparing", "prepared")  # of the configuration, and of reading the data
_LOCK_RETRY_SECONDS = 0.2


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Write fedhealth's full log to a file while the block runs; nothing of it goes to the terminal."""
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
    """The directory of one run."""

    path: Path

    @property
    def exists(self) -> bool:
        """Whether the folder holds a run."""
        return is_plain_file(self.path / RUN_FILE)

    @property
    def info(self) -> RunMetadata:
        """The content of run.json; empty where there is none.

        Raises:
            ConfigError: it is damaged.

        """
        return read_metadata(self.path) or RunMetadata()

    def create(self, **fields: Any) -> None:
        """Create the folder and mark the run as running.

        Args:
            fields: of `RunMetadata`, besides state and time.

        Raises:
            ConfigError: the folder already contains a run that did not fail early, or it is a file.

        """
        self.vacate()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as fault:
            raise ConfigError(f"{self.path} cannot be a folder: a file is there.", "Name another folder.") from fault
        write_metadata(self.path, RunMetadata(state="running", started=_utc_now(), **fields))

    def vacate(self) -> None:
        """Remove a run that failed before a site was asked for anything: nothing of value is in it.

        Raises:
            ConfigError: the folder contains any other run.

        """
        if not self.exists:
            return
        if self.info.state != "failed" or any(each["event"] not in _EARLY_EVENTS for each in self.read_events()[0]):
            raise ConfigError(f"{self.path} already contains a run.", "Choose another hydra.run.dir.")
        for name in (RUN_FILE, "events.jsonl", LOG_FILE):
            (self.path / name).unlink(missing_ok=True)

    @contextmanager
    def lock(self, part: str = "", timeout: float = 0.0) -> Iterator[None]:
        """Lock the run against other processes while the block runs.

        Args:
            part: name of the lock, such as `SERVER_LOCK`; empty for the lock of the whole run.
            timeout: seconds to wait for another process to release it.

        Raises:
            ConfigError: another process holds the lock.

        """
        busy = ConfigError(f"The run in {self.path} is running.", "Wait for it, or stop it first.")
        with lock_file(self.path / f"{part}.lock", timeout, busy):
            yield

    @property
    def is_running(self) -> bool:
        """Whether some process holds the run's lock."""
        return is_locked(self.path / ".lock")

    @property
    def is_served(self) -> bool:
        """Whether a server app process is running the rounds."""
        return is_locked(self.path / f"{SERVER_LOCK}.lock")

    def update_info(self, **fields: Any) -> None:
        """Change fields of run.json."""
        write_metadata(self.path, replace(self.info, **fields))

    def mark_completed(self) -> None:
        """Mark the run as completed."""
        self.update_info(state="completed", finished=_utc_now())

    def mark_failed(self, fault: BaseException) -> None:
        """Mark the run as failed (or stopped by the user) and record the reason, unless the disk is full."""
        stopped = isinstance(fault, KeyboardInterrupt)
        cause = as_storage_error(fault) or fault
        kind = type(cause).__name__
        problem = cause.problem if isinstance(cause, FedhealthError) else f"{kind}: {cause}"
        advice = cause.advice if isinstance(cause, FedhealthError) else ""
        error = RunError(kind, problem, advice)
        try:
            self.update_info(state="stopped" if stopped else "failed", finished=_utc_now(), error=error)
        except OSError as full:  # report the first fault; the run shows as interrupted, since its lock is free
            log.warning("run.json could not be written: %s", full)

    def append_event(self, kind: str, **fields: object) -> None:
        """Append one line to events.jsonl; if the disk rejects it, the line is lost and the run continues."""
        line = json.dumps({"time": round(time.time(), 3), "event": kind, **fields}, default=_to_builtin)
        try:
            with (self.path / "events.jsonl").open("ab") as file:
                file.write(b"\n" * _ends_mid_line(self.path / "events.jsonl") + line.encode() + b"\n")
        except OSError as fault:
            log.warning("the event could not be written (%s): %s", fault, line)

    def read_events(self, start: int = 0) -> tuple[list[dict[str, Any]], int]:
        """Return the events from byte `start` on, and the position for the next call.

        An incomplete last line is left for the next call; a line that a full disk truncated is skipped.
        """
        path = self.path / "events.jsonl"
        if not is_plain_file(path):
            return [], start
        with path.open("rb") as file:
            file.seek(start)
            complete_lines, _, _ = file.read().rpartition(b"\n")
        return list(_parse_events(complete_lines)), start + len(complete_lines) + (1 if complete_lines else 0)

    def site_dir(self, name: str) -> Path:
        """Return the private folder of a site that runs on this machine."""
        return self.path / "sites" / name


def _parse_events(content: bytes) -> Iterator[dict[str, Any]]:
    for line in content.split(b"\n"):
        with suppress(ValueError, RecursionError):
            event = json.loads(line)
            if isinstance(event, dict) and "event" in event:
                yield event


def _ends_mid_line(path: Path) -> bool:
    """Return whether the last line of a file has no newline."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
