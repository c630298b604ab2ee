"""Send finished runs to an experiment tracker."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from fedhealth.config.part_contracts import TRACKER, build_part
from fedhealth.runs.run_dir import RunDir
from fedhealth.utils.fault_text import get_first_line

log = logging.getLogger("fedhealth")


class Tracker(Protocol):
    """Sends a run to an external system, once it has ended."""

    def track(self, folder: Path) -> str:
        """Send the content of a run directory; return where it can be viewed."""


def track_run(node: Any, run: RunDir) -> AbstractContextManager[None]:
    """Track the run after the `with` block, successful or not; if the tracker fails, the run is not affected.

    Args:
        node: of the configuration, with a `Tracker` as its `_target_`.
        run: the run directory.

    Raises:
        ConfigError: the tracker cannot be created.

    """
    return _track_with(build_part(node, "tracking", TRACKER), run)


@contextmanager
def _track_with(tracker: Tracker, run: RunDir) -> Iterator[None]:
    try:
        yield
    finally:
        _send_to_tracker(tracker, run)


def _send_to_tracker(tracker: Tracker, run: RunDir) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # libraries warn about themselves
            run.append_event("tracked", where=tracker.track(run.path))
    except Exception as fault:  # a tracker may be anyone's code, and the run is finished
        log.warning("tracking failed: %s", fault)
        run.append_event("tracking_failed", reason=f"{type(fault).__name__}: {get_first_line(fault)}")
