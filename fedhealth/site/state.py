"""How a running site stands: one file for people and monitors, a lock against a second runner, a switch to pause."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fedhealth.errors import ConfigError
from fedhealth.rundir import read_json, write_json
from fedhealth.site.home import SiteHome
from fedhealth.vault import make_folder


class SiteState:
    """The state of the site at `home`.

    Args:
        home: the hospital's folder.

    """

    def __init__(self, home: SiteHome) -> None:
        self._file, self._lock, self._pause = home.run / "status.json", home.run / "lock", home.run / "paused"

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
        """Change what is said of the site."""
        write_json(self._file, {**(read_json(self._file) or {}), **fields, "updated": round(time.time(), 1)})

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
