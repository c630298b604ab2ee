"""Processes that are forked from a server: a script that starts them does not run again in each of them."""

import subprocess
import sys

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
