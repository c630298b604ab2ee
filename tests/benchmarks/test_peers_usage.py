"""What a tree of processes uses is measured in a process of its own: it ends all processes below it."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.peers_usage import list_descendants, read_cpu_seconds, read_proportional_memory

MEASURE = """
import json, os, sys
from dataclasses import asdict
from pathlib import Path
from benchmarks.peers_usage import CommandFailedError, list_descendants, measure_command
folder, limit, code = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
try:
    found = asdict(measure_command([sys.executable, "-c", code], dict(os.environ), folder, limit))
except CommandFailedError as fault:
    found = {"fault": str(fault)}
print(json.dumps({**found, "left": list_descendants(os.getpid())}))
"""
BUSY = "import time\nwhile time.process_time() < 0.5: pass\n"
HOLD = "import sys; held = bytes(range(256)) * (50 * 4096); print(flush=True); sys.stdin.read()"  # 50 MiB


def measure(folder, code, limit=60.0):
    command = [sys.executable, "-c", MEASURE, str(folder), str(limit), code]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_children_count_even_if_their_parent_does_not_wait_for_them(tmp_path):
    code = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {BUSY!r}], start_new_session=True)\n{BUSY}"
    found = measure(tmp_path, code)
    assert found["cpu"] >= 0.9
    assert found["left"] == []


def test_children_count_even_if_the_kernel_forgets_them(tmp_path):
    code = f"""
import signal, subprocess, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", {BUSY.replace("0.5", "1.0")!r}]).wait()
"""
    assert measure(tmp_path, code)["cpu"] >= 0.6


def test_a_command_that_takes_too_long_ends_with_all_its_processes(tmp_path):
    code = """
import os, time
os.fork()
print("waits", flush=True)
time.sleep(600)
"""
    found = measure(tmp_path, code, limit=1.5)
    assert "waits" in found["fault"]
    assert found["left"] == []


def test_a_command_that_fails_is_told_with_its_output(tmp_path):
    assert "ZeroDivisionError" in measure(tmp_path, "1 / 0")["fault"]


@pytest.fixture
def tree():
    """A process with a child, each of which holds 50 MiB of its own."""
    code = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {HOLD!r}], stdout=subprocess.PIPE)
child.stdout.readline()
{HOLD}"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) as process:
        process.stdout.readline()
        yield process.pid
        process.stdin.close()


def test_memory_is_summed_over_the_tree(tree):
    (child,) = list_descendants(tree)
    assert tree in list_descendants(os.getpid())
    for pid in (tree, child):
        assert 50 << 20 <= read_proportional_memory(pid) <= 100 << 20
        assert read_cpu_seconds(pid) > 0


def test_a_process_that_has_ended_uses_nothing():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert read_proportional_memory(process.pid) == 0
    assert read_cpu_seconds(process.pid) == 0.0
    assert list_descendants(process.pid) == []
