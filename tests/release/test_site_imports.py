"""A site imports nothing of what its lock leaves out."""

import re
import subprocess
import sys
from pathlib import Path

from release.lock_file import read_lock

ROOT = Path(__file__).resolve().parents[2]
MODULES = {"hf-xet": "hf_xet", "python-dotenv": "dotenv"}
CODE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in set(sys.argv[1:]):
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Absent())
import runpy
runpy.run_path("%s")
"""


def test_a_site_starts_without_what_its_lock_leaves_out():
    text = (ROOT / "Makefile").read_text()
    left_out = re.search(r"^LEAD_ONLY := (.+)$", text, re.MULTILINE)[1].split()
    locked = {each.name for each in read_lock(ROOT / "locks" / "site.lock")}
    assert not locked & {*left_out, "matplotlib"}
    absent = [MODULES.get(name, name) for name in (*left_out, "matplotlib")]
    # imports alone: the modules that `install.sh` imports at a site, and those that a training round adds
    code = CODE % (ROOT / "fedhealth" / "cli" / "preload_site.py")
    command = [sys.executable, "-W", "ignore", "-c", code, *absent]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
