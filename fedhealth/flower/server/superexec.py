"""Flower's starter of server applications: a process of its own beside the lead's server, which it outlives."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

from fedhealth.utils.private_files import write_secret

log = logging.getLogger("fedhealth.lead")


class Executor:
    """Flower's starter of server applications, beside the server: one that outlived an earlier server is kept.

    Args:
        folder: where its log and its process id go.
        control_port: of the SuperLink's runtime API, on loopback.
        secret: the file of what that API asks for.

    """

    def __init__(self, folder: Path, control_port: int, secret: Path) -> None:
        self._folder, self._note = folder, folder / "executor.pid"
        program = Path(sys.executable).with_name("flower-superexec")
        self._command = [str(program), "--insecure", "--runtime-api-address", f"127.0.0.1:{control_port}"]
        self._command += ["--superexec-auth-secret-file", str(secret)]
        self._process: subprocess.Popen[bytes] | None = None

    def keep(self) -> None:
        """Start it unless it runs."""
        if self._process is not None and self._process.poll() is not None:
            log.warning("the starter of server applications ended; see executor.log. It is started again.")
        elif self._runs():
            return
        with (self._folder / "executor.log").open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                self._command, stdout=output, stderr=output, start_new_session=True
            )
        write_secret(self._note, str(self._process.pid).encode())

    def stop(self) -> None:
        """End it, and what it started."""
        with contextlib.suppress(OSError, ValueError):
            os.killpg(int(self._note.read_text("ascii")), signal.SIGTERM)
        self._note.unlink(missing_ok=True)
        if self._process is not None:
            self._process.wait()

    def _runs(self) -> bool:
        try:
            pid = int(self._note.read_text("ascii"))
            return b"flower-superexec" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return False
