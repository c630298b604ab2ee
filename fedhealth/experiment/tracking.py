"""A finished run told to an experiment tracker."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from fedhealth.config.instantiate import instantiate
from fedhealth.runs.run_dir import RunDir

log = logging.getLogger("fedhealth")


class Tracker(Protocol):
    """Tells a run to somebody outside, once it has ended."""

    def track(self, folder: Path) -> str:
        """Send what a run directory says; return where it can be seen."""


@contextmanager
def tracked(node: Any, run: RunDir) -> Iterator[None]:
    """Track the run when the block has ended, however it ended; a tracker that fails costs the run nothing.

    Args:
        node: of the configuration, naming a `Tracker`.
        run: the run directory.

    Raises:
        ConfigError: there cannot be such a tracker.

    """
    tracker: Tracker = instantiate(node)
    try:
        yield
    finally:
        _track(tracker, run)


def _track(tracker: Tracker, run: RunDir) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, about themselves
            run.event("tracked", where=tracker.track(run.path))
    except Exception as fault:  # a tracker is anybody's code, and the run is done
        log.warning("tracking failed: %s", fault)
        run.event("tracking_failed", reason=f"{type(fault).__name__}: {str(fault).splitlines()[0]}")
