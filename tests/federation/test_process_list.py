"""What every user of a machine can read: the command lines of all processes, before, during and after a run."""

import threading
from pathlib import Path

import pytest

from tests.federation.conftest import LOOSE
from tests.federation.looking import PLAIN

pytestmark = pytest.mark.xdist_group("federation")


def read_command_lines():
    """Return the command line of every process of this machine."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.add(path.read_bytes().replace(b"\0", b" "))
        except OSError:  # it has ended
            continue
    return found


def list_secrets(poc):
    """Return the content of every private file of the lead and of the hospitals, whole and line by line."""
    files = [path for home in (poc.lead.path, poc.root / "sites") for path in home.rglob("*") if path.is_file()]
    private = [path for path in files if path.stat().st_mode & 0o077 == 0 and path.stat().st_size < 10_000]
    lines = {line.strip() for path in private for line in path.read_bytes().splitlines()}
    return {line for line in lines if len(line) >= 24}


def test_no_secret_is_in_the_list_of_processes(consortium, tmp_path):
    consortium.agree(LOOSE)
    seen, ended = set(), threading.Event()

    def look():
        while not ended.wait(0.02):
            seen.update(read_command_lines())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        consortium.run(tmp_path / "run", *PLAIN)
    finally:
        ended.set()
        watcher.join()
    ours = [line for line in seen if b"flwr-serverapp" in line]
    assert ours  # the server application was seen
    assert not [line for line in ours if b"--token " in line]
    everything = b"\n".join(seen)
    secrets = list_secrets(consortium.poc)
    assert len(secrets) > 10
    assert not [secret for secret in secrets if secret in everything]
