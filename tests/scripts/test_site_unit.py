"""The site's unit on a read-only machine: bubblewrap closes and hides what systemd would."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedhealth.data.synthetic import write_hospitals
from fedhealth.site.home import SiteHome
from fedhealth.site.init import init_site

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "scripts" / "fedhealth-site.service"
HOME = Path("/var/lib/fedhealth")


def read_unit():
    """Return the unit's environment and its other settings, the last value of each."""
    lines = [line.partition("=")[::2] for line in UNIT.read_text().splitlines() if "=" in line and line[0] != "#"]
    environment = dict(value.partition("=")[::2] for name, value in lines if name == "Environment")
    return environment, dict(lines)


def run_under_unit(home, data, *arguments):
    """Run a command of the site as the unit runs the service: read-only root, its own /tmp, its ReadWritePaths."""
    environment, settings = read_unit()
    assert settings["ProtectSystem"] == "strict"
    assert settings["PrivateTmp"] == "yes"
    assert settings["ReadWritePaths"].split() == [str(HOME)]
    variables = {"HOME": "/home/fedhealth", "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment}
    places = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--tmpfs", "/var/lib"]
    places += ["--tmpfs", "/srv", "--bind", str(home), str(HOME), "--ro-bind", str(data), "/srv/ward", "--chdir", "/"]
    places += ["--remount-ro", "/var/lib", "--unshare-user", "--uid", "1000", "--unshare-pid", "--die-with-parent"]
    command = ["bwrap", *places, sys.executable, "-m", "fedhealth.cli.main", *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)


@pytest.fixture(name="data")
def data_(tmp_path):
    [site] = write_hospitals(tmp_path / "data", patients=40, sites=1)
    return tmp_path / "data" / site


@pytest.mark.services
@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap (scripts/system-packages.sh installs it)")
def test_a_check_under_the_units_restrictions_reads_the_data_and_keeps_the_cache_at_home(tmp_path, data):
    home = SiteHome(tmp_path / "home")
    init_site(home, "charite", "lead.example:9092")
    with home.policy.open("a") as file:
        file.write("data: {demo: {dataset: ward-7, root: /srv/ward}}\n")
    done = run_under_unit(home.path, data, "site", "check", "--json")
    assert done.returncode == 9, done.stderr  # no kit yet
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    for name, check in checks.items():
        if name.startswith("data") or name == "keys":
            assert check["status"] != "FAIL", check
    assert any(name.startswith("data demo") for name in checks)
    assert any(path.is_file() for path in (home.path / "cache").rglob("*"))
