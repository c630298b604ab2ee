"""The site's log file: the daemon and its workers write to the same one."""

from __future__ import annotations

import logging
from pathlib import Path

_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def configure_daemon_log(path: Path) -> None:
    """Send the daemon's log to a file of the site, and to the terminal or the systemd journal."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handlers = (logging.FileHandler(path, encoding="utf-8"), logging.StreamHandler())
    _configure([*logging.getLogger("fedhealth").handlers, *handlers], handlers)


def configure_worker_log(path: Path) -> None:
    """Send a worker's log to the file alone; inherited handlers are removed."""
    handlers = (logging.FileHandler(path, encoding="utf-8"),)
    _configure(list(handlers), handlers)


def _configure(all_handlers: list[logging.Handler], new: tuple[logging.Handler, ...]) -> None:
    for handler in new:
        handler.setFormatter(logging.Formatter(_FORMAT))
    logger = logging.getLogger("fedhealth")
    logger.handlers[:] = all_handlers
    logger.setLevel(logging.INFO)
    logger.propagate = False
