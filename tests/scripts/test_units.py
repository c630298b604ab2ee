"""The start scripts and systemd units: read by shellcheck and systemd, and started for real."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedhealth.lead.home import LeadHome
from fedhealth.lead.project import Project
from fedhealth.lead.provision import provision_consortium
from fedhealth.runtime.local_consortium import find_free_ports

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
PROGRAM = Path(sys.executable).with_name("fedhealth")
UNITS = ("fedhealth-site.service", "fedhealth-lead.service")


def needs(program):
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"needs {program}")


@needs("shellcheck")
@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_shellcheck_has_no_complaint(path):
    found = subprocess.run(["shellcheck", "-o", "all", str(path)], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@needs("systemd-analyze")
@pytest.mark.parametrize("name", UNITS)
def test_systemd_accepts_the_unit(name, tmp_path):
    unit = tmp_path / name
    unit.write_text((SCRIPTS / name).read_text().replace("/opt/fedhealth/bin/fedhealth", str(PROGRAM)))
    found = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    complaints = [line for line in found.stderr.splitlines() if name in line]
    assert not complaints


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_starts_what_the_script_starts(name):
    side = name.removeprefix("fedhealth-").removesuffix(".service")
    (line,) = [line for line in (SCRIPTS / name).read_text().splitlines() if line.startswith("ExecStart=")]
    words = line.partition("=")[2].split()[1:]
    assert f'exec "${{fedhealth}}" {" ".join(words)} ' in (SCRIPTS / f"start-{side}.sh").read_text()


@pytest.mark.parametrize(
    ("script", "variable"), [("start-site.sh", "FEDHEALTH_HOME"), ("start-lead.sh", "FEDHEALTH_LEAD")]
)
def test_without_a_folder_the_script_says_what_to_do(script, variable, tmp_path):
    found = subprocess.run(
        ["bash", str(SCRIPTS / script)], env={**os.environ, variable: str(tmp_path)}, capture_output=True, text=True
    )
    assert found.returncode == 2
    assert "first" in found.stderr


def test_the_leads_script_serves_until_it_is_told_to_stop(tmp_path):
    public, control = find_free_ports()
    address = f"127.0.0.1:{public}"
    provision_consortium(LeadHome(tmp_path / "lead"), Project("chest", address, listen=address, control_port=control))
    environment = {**os.environ, "FEDHEALTH_LEAD": str(tmp_path / "lead"), "FEDHEALTH": str(PROGRAM)}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(["bash", str(SCRIPTS / "start-lead.sh")], env=environment, stdout=log, stderr=log)
    try:
        ends = time.monotonic() + 120
        while "serving hospitals" not in (tmp_path / "log").read_text():
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < ends
            time.sleep(0.1)
        time.sleep(1)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    assert code == 0
