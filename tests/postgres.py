"""A PostgreSQL server for tests, on loopback, with a folder of its own and a password."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from fedhealth.runtime.local_consortium import find_free_ports

PROGRAMS = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
ABSENT = PROGRAMS is None or not (PROGRAMS / "initdb").exists()
PASSWORD = "secret"


class Postgres:
    """A server with the account `reader`; it refuses to run as root, so its processes may be another user's."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self.port, _ = find_free_ports()
        self._user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        if self._user:
            shutil.chown(self.folder, "postgres")

    def __enter__(self):
        (self.folder / "password").write_text(PASSWORD)
        (self.folder / "password").chmod(0o644)
        self._run(
            "initdb", "-D", self.data, "-U", "reader", "-A", "scram-sha-256", "--no-sync", "--pwfile", self.password
        )
        options = f"-h 127.0.0.1 -p {self.port} -k {self.folder} -F"
        self._run("pg_ctl", "-D", self.data, "-w", "-l", str(self.folder / "log"), "-o", options, "start")
        return self

    def __exit__(self, *fault):
        self._run("pg_ctl", "-D", self.data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(self.folder)

    @property
    def data(self):
        return str(self.folder / "data")

    @property
    def password(self):
        return str(self.folder / "password")

    @property
    def url(self):
        return f"postgresql://reader@127.0.0.1:{self.port}/postgres"

    @property
    def url_for_writing(self):
        return f"postgresql+pg8000://reader:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def _run(self, program, *arguments):
        command = [*self._user, str(PROGRAMS / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
