"""Flower's SuperExec, which starts server applications: a separate process that outlives the lead's server."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

from fedhealth.utils.private_files import write_private_file

log = logging.getLogger("fedhealth.lead")

_MODULE = "fedhealth.flower.server.superexec_process"


class SuperExec:
    """The SuperExec process; one that an earlier server started is reused.

    Args:
        folder: for its log and its process id.
        control_port: of the SuperLink's runtime API, on loopback.
        secret: the file with the secret that this API requires.

    """

    def __init__(self, folder: Path, control_port: int, secret: Path) -> None:
        self._folder, self._pid_file = folder, folder / "executor.pid"
        self._command = [sys.executable, "-m", _MODULE]
        self._command += ["--insecure", "--runtime-api-address", f"127.0.0.1:{control_port}"]
        self._command += ["--superexec-auth-secret-file", str(secret)]
        self._process: subprocess.Popen[bytes] | None = None

    def ensure_running(self) -> None:
        """Start the process unless it is running.

        Raises:
            OSError: its log or its process id cannot be written; the next call does what is left.

        """
        if self._process is None and self._is_running():
            return
        if self._process is None or self._process.poll() is not None:
            if self._process is not None:
                log.warning("SuperExec ended unexpectedly (see executor.log) and is restarted")
            with (self._folder / "executor.log").open("ab") as output:
                self._process = subprocess.Popen(  # noqa: S603 - our own program
                    self._command, stdout=output, stderr=output, start_new_session=True
                )
        if self._read_pid() != self._process.pid:
            write_private_file(self._pid_file, str(self._process.pid).encode())

    def stop(self) -> None:
        """Terminate the process and all processes that it started."""
        pid = self._process.pid if self._process is not None else self._read_pid()
        if pid is not None:
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGTERM)
        self._pid_file.unlink(missing_ok=True)
        if self._process is not None:
            self._process.wait()

    def _is_running(self) -> bool:
        with contextlib.suppress(OSError):
            return b"superexec" in Path(f"/proc/{self._read_pid()}/cmdline").read_bytes()
        return False

    def _read_pid(self) -> int | None:
        try:
            return int(self._pid_file.read_text("ascii"))
        except (OSError, ValueError):
            return None
