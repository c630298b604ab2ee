"""The process that starts server applications: one of them, whatever the disk does."""

import errno
import time
from pathlib import Path

import pytest

from fedhealth.flower.server import superexec as module
from fedhealth.flower.server.superexec import SuperExec


@pytest.fixture(name="superexec")
def superexec_(tmp_path):
    made = SuperExec(tmp_path, 9, tmp_path / "secret")
    made._command = ["/bin/sh", "-c", "sleep 60 # superexec"]
    yield made
    made.stop()


def wait_for_command_line(pid):
    """On a busy machine a process that has just started has none for some milliseconds."""
    while not Path(f"/proc/{pid}/cmdline").read_bytes():
        time.sleep(0.01)


def test_a_process_whose_id_cannot_be_written_is_not_started_again(superexec, monkeypatch, tmp_path):
    """On a full disk every attempt would leave one more process behind."""

    def fail(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_private_file", fail)
        pids = []
        for _ in range(3):
            with pytest.raises(OSError, match="No space left"):
                superexec.ensure_running()
            pids.append(superexec._process.pid)
        [first] = set(pids)
    superexec.ensure_running()
    assert (superexec._process.pid, int((tmp_path / "executor.pid").read_text())) == (first, first)


def test_a_process_of_an_earlier_server_is_reused_and_one_that_ended_is_replaced(superexec, tmp_path):
    superexec.ensure_running()
    later = SuperExec(tmp_path, 9, tmp_path / "secret")
    wait_for_command_line(superexec._process.pid)
    later.ensure_running()
    assert later._process is None
    superexec._process.kill()
    superexec._process.wait()
    first = superexec._process.pid
    superexec.ensure_running()
    assert superexec._process.pid != first
