"""Processes that are forked from a server: a script that starts them does not run again in each of them."""

import os
import signal
import subprocess
import sys

import pytest

SCRIPT = """
import os
from concurrent.futures import ProcessPoolExecutor
from fedhealth.utils.warm_processes import get_warm_context

print("the script runs", flush=True)
process = get_warm_context().Process(target=os.write, args=(1, b"a process ran\\n"))
process.start()
process.join()
with ProcessPoolExecutor(1, get_warm_context()) as pool:
    print(pool.submit(pow, 2, 5).result())
import __main__
print(__main__.SEEN)
"""


def test_a_script_without_a_guard_runs_once(tmp_path):
    script = tmp_path / "study.py"
    script.write_text(f"SEEN = 'the module is back'\n{SCRIPT}", "utf-8")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["the script runs", "a process ran", "32", "the module is back"], done.stderr


INTERRUPTED = """
import os, signal, time
from multiprocessing import forkserver
from pathlib import Path
from fedhealth.utils.warm_processes import start_server

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
start_server(["slow_module"])
while {waits} and not Path("importing").exists():
    time.sleep(0.01)
server = forkserver._forkserver._forkserver_pid
os.kill(server, signal.SIGINT)
print(os.waitstatus_to_exitcode(os.waitpid(server, 0)[1]))
forkserver._forkserver._forkserver_pid = None
start_server(["fedhealth.errors"])  # the user may go on
os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.parametrize("waits", [False, True], ids=["while Python starts", "while it imports"])
def test_ctrl_c_ends_a_server_that_starts_without_a_traceback(waits, tmp_path):
    (tmp_path / "slow_module.py").write_text("import time\nopen('importing', 'w').close()\ntime.sleep(600)", "utf-8")
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    command = [sys.executable, "-c", INTERRUPTED.format(waits=waits)]
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.stdout.split() == [str(-signal.SIGINT)], done.stderr
    assert done.stderr.count("Traceback") == 1  # its own process takes Ctrl-C as ever
    assert done.returncode == -signal.SIGINT


SHIELDED = """
import multiprocessing, os, signal, time
from multiprocessing import forkserver
from pathlib import Path
from fedhealth.utils.warm_processes import start_server

signal.signal(signal.SIGINT, signal.{handler})
start_server(["slow_module"], ends_with_interrupt={ends})
while not Path("importing").exists():
    time.sleep(0.01)
os.kill(forkserver._forkserver._forkserver_pid, signal.SIGINT)
Path("go").touch()
process = multiprocessing.get_context("forkserver").Process(target=os.write, args=(1, b"a process ran\\n"))
process.start()
process.join()
"""
WAITING = """
import time
from pathlib import Path

Path("importing").touch()
while not Path("go").exists():
    time.sleep(0.01)
"""


@pytest.mark.parametrize(("ends", "handler"), [(False, "default_int_handler"), (True, "SIG_IGN")])
def test_a_server_of_a_daemon_or_of_a_job_in_the_background_goes_on_after_ctrl_c(ends, handler, tmp_path):
    (tmp_path / "slow_module.py").write_text(WAITING, "utf-8")
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    command = [sys.executable, "-c", SHIELDED.format(ends=ends, handler=handler)]
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert (done.stdout, done.stderr) == ("a process ran\n", "")
