"""The site's log: the daemon and its workers write to the same file; the daemon begins a new one when it is full."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler, WatchedFileHandler
from pathlib import Path

_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
_MAX_BYTES, _OLD_FILES = 20_000_000, 5  # site.log.1 is the newest of the old ones


def configure_daemon_log(path: Path) -> None:
    """Send the daemon's log to a file of the site, and to the terminal or the systemd journal."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = RotatingFileHandler(path, maxBytes=_MAX_BYTES, backupCount=_OLD_FILES, encoding="utf-8")
    handlers = (file, logging.StreamHandler())
    _configure([*logging.getLogger("fedhealth").handlers, *handlers], handlers)


def configure_worker_log(path: Path) -> None:
    """Send a worker's log to the file alone, also after the daemon has begun a new one; other handlers are removed."""
    handlers = (WatchedFileHandler(path, encoding="utf-8"),)
    _configure(list(handlers), handlers)


def _configure(all_handlers: list[logging.Handler], new: tuple[logging.Handler, ...]) -> None:
    for handler in new:
        handler.setFormatter(logging.Formatter(_FORMAT))
    logger = logging.getLogger("fedhealth")
    logger.handlers[:] = all_handlers
    logger.setLevel(logging.INFO)
    logger.propagate = False
