"""How a running site stands: one file for people and monitors, a lock against a second runner, a switch to pause."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fedhealth.errors import ConfigError
from fedhealth.site.home import SiteHome
from fedhealth.utils.atomic_io import read_json, write_json
from fedhealth.utils.periodic import regularly
from fedhealth.utils.private_files import make_folder

IN_CONTACT = ("connected", "working")  # states in which the lead is reached
_BEAT_SECONDS = 15.0  # between two metrics of a site to which nothing happens: its monitor sees that it lives

log = logging.getLogger("fedhealth.site")


class SiteState:
    """The state of the site at `home`.

    Args:
        home: the hospital's folder.
        write_metrics: called at every change of state and periodically while the daemon runs; it must not raise.

    """

    def __init__(self, home: SiteHome, write_metrics: Callable[[], None] | None = None) -> None:
        self._write_metrics = write_metrics or (lambda: None)
        self._file, self._lock, self._pause = home.run / "status.json", home.run / "lock", home.run / "paused"
        self._working = time.monotonic()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the only runner of this site.

        Raises:
            ConfigError: there is one already.

        """
        make_folder(self._lock.parent)
        with self._lock.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as fault:
                raise ConfigError("This site is running already.", "`fedhealth site status` shows how.") from fault
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            with regularly(_BEAT_SECONDS, self._write_metrics, "metrics"):  # also when nothing happens
                yield

    @property
    def pid(self) -> int | None:
        """The runner's process; None if there is none."""
        if not self._lock.is_file():
            return None
        with self._lock.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read() or 0) or None
        return None

    @property
    def about(self) -> dict[str, Any]:
        """What the runner last said of itself; `state` is `stopped` when there is none."""
        said = dict(read_json(self._file) or {})
        if self.pid is None:
            said["state"] = "stopped"
        return said

    def say(self, **fields: object) -> None:
        """Change what is said of the site; a full disk costs the word and not the site."""
        before, now = dict(read_json(self._file) or {}), round(time.time(), 1)
        said = {**before, **fields, "updated": now}
        if {before.get("state"), said.get("state")} & set(IN_CONTACT):
            said["contact"] = now
        if said.get("state") == "working":
            self._working = time.monotonic()
        elif before.get("state") == "working":
            said["task_seconds"] = round(time.monotonic() - self._working, 3)
        try:
            write_json(self._file, said)
        except OSError as fault:
            log.warning("the state could not be written: %s", fault)
        self._write_metrics()

    @property
    def paused(self) -> bool:
        """Whether no new work is taken."""
        return self._pause.is_file()

    def pause(self) -> None:
        """Take no new work from now on."""
        make_folder(self._pause.parent)
        self._pause.touch(mode=0o600)

    def resume(self) -> None:
        """Take work again."""
        self._pause.unlink(missing_ok=True)

    def stop(self, seconds: float = 60.0) -> bool:
        """Ask the runner to end and wait for it; tell whether there was one.

        Raises:
            ConfigError: it does not end.

        """
        pid = self.pid
        if pid is None:
            return False
        os.kill(pid, signal.SIGTERM)
        ends = time.monotonic() + seconds
        while self.pid is not None:
            if time.monotonic() > ends:
                raise ConfigError(f"Process {pid} does not end.", f"Look at it; `kill -9 {pid}` ends it for good.")
            time.sleep(0.1)
        return True
