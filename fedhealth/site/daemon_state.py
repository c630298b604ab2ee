"""The state of the site daemon: its status file, the lock against a second daemon, and the pause switch."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from fedhealth.errors import ConfigError, StartRefusedError, TrustError
from fedhealth.site.audit_log import AuditLog
from fedhealth.site.home import SiteHome
from fedhealth.utils.atomic_io import read_json, write_json
from fedhealth.utils.file_lock import is_locked, lock_file
from fedhealth.utils.periodic import run_periodically
from fedhealth.utils.private_files import make_private_folder

CONNECTED_STATES = ("connected", "working")  # states in which the site is connected to the lead
_METRICS_SECONDS = 15.0  # metrics are also written this often while the site is idle, as a health check

log = logging.getLogger("fedhealth.site")


class DaemonState:
    """The state of the site at `home`.

    Args:
        home: the hospital's folder.
        write_metrics: called at every change of state and periodically while the daemon runs; it must not raise.

    """

    def __init__(self, home: SiteHome, write_metrics: Callable[[], None] | None = None) -> None:
        self._write_metrics = write_metrics or (lambda: None)
        self._file, self._lock, self._pause = (
            home.daemon_folder / "status.json",
            home.daemon_folder / "lock",
            home.daemon_folder / "paused",
        )
        self._audit, self._task_started = AuditLog(home.audit), time.monotonic()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock of this site: only one daemon may run.

        Raises:
            StartRefusedError: another daemon holds it.

        """
        make_private_folder(self._lock.parent)
        refused = StartRefusedError(
            f"This site is running already (lock {self._lock}).",
            "See `fedhealth site status`; `fedhealth site stop` ends it.",
        )
        with lock_file(self._lock, wait=0, error=refused) as lock:
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            with run_periodically(_METRICS_SECONDS, self._write_metrics, "metrics"):
                yield

    @property
    def pid(self) -> int | None:
        """The daemon's process id; None if it does not run."""
        return int(self._lock.read_text() or 0) or None if is_locked(self._lock) else None

    @property
    def status(self) -> dict[str, Any]:
        """The daemon's last status; `state` is `stopped` if it does not run."""
        status = self._read_status()
        if self.pid is None:
            status["state"] = "stopped"
        return status

    def update_status(self, **fields: object) -> None:
        """Change fields of the status file and write the metrics; a write error is logged and stops nothing."""
        before, now = self._read_status(), round(time.time(), 1)
        status = {**before, **fields, "updated": now}
        if {before.get("state"), status.get("state")} & set(CONNECTED_STATES):
            status["contact"] = now
        if status.get("state") == "working":
            self._task_started = time.monotonic()
        elif before.get("state") == "working":
            status["task_seconds"] = round(time.monotonic() - self._task_started, 3)
        try:
            write_json(self._file, status)
        except OSError as fault:
            log.warning("the status file %s could not be written: %s", self._file, fault)
        self._write_metrics()

    def _read_status(self) -> dict[str, Any]:
        """Return what the file says; nothing if it is missing or damaged, for it tells only what is shown."""
        try:
            return dict(read_json(self._file) or {})
        except (OSError, ValueError, TypeError, RecursionError) as fault:
            log.warning("the status file %s cannot be read: %s", self._file, fault)
            return {}

    @property
    def is_paused(self) -> bool:
        """Whether the site takes no new messages."""
        return self._pause.is_file()

    def pause(self, where: str) -> None:
        """Take no new messages from now on; the audit log says so.

        Args:
            where: this was chosen, such as `page`.

        """
        make_private_folder(self._pause.parent)
        self._pause.touch(mode=0o600)
        self._log_switch("paused", where)

    def resume(self, where: str) -> None:
        """Take messages again; the audit log says so, see `pause`."""
        self._pause.unlink(missing_ok=True)
        self._log_switch("resumed", where)

    def _log_switch(self, event: str, where: str) -> None:
        try:
            self._audit.write(event, where=where)
        except TrustError:  # pausing must work all the more with a damaged log
            log.exception("the audit log cannot record that this site was %s (%s)", event, where)

    def stop(self, seconds: float = 60.0) -> bool:
        """Stop the daemon with SIGTERM and wait for it; return whether it was running.

        Raises:
            ConfigError: it runs elsewhere, or has not ended after `seconds`.

        """
        pid = self.pid
        if pid is None:
            return False
        if not self._is_holder(pid):
            raise ConfigError(
                "This site runs in a container, or as another user.",
                "Stop it where it was started: systemctl stop fedhealth-site, or stop the container.",
            )
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while self.pid is not None:
            if time.monotonic() > deadline:
                problem = f"The site daemon (process {pid}) has not stopped after {seconds:.0f} seconds."
                raise ConfigError(problem, f"See run/site.log in the site's folder; `kill -9 {pid}` ends it at once.")
            time.sleep(0.1)
        return True

    def _is_holder(self, pid: int) -> bool:
        """Return whether a process has the lock open: in a container the same number is another process."""
        lock = self._lock.stat()
        try:
            links = list(os.scandir(f"/proc/{pid}/fd"))
        except OSError:
            return False
        for link in links:
            with suppress(OSError):  # closed meanwhile
                about = link.stat()
                if (about.st_dev, about.st_ino) == (lock.st_dev, lock.st_ino):
                    return True
        return False
