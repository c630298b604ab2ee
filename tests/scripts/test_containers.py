"""Containerfile and compose file: not root, read-only, without rights, with a health check.

No image is built here: what it would run is run by bubblewrap, under the same user, variables and read-only root.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "container" / "Containerfile").read_text()
LINES = TEXT.replace("\\\n", " ").splitlines()
INSTRUCTIONS = [line.split(None, 1) for line in LINES if line and not line.startswith("#")]
COMPOSE = yaml.safe_load((ROOT / "container" / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]


def test_the_image_is_not_root_and_says_whether_it_is_healthy():
    names = [name for name, _ in INSTRUCTIONS]
    stages = [index for index, name in enumerate(names) if name == "FROM"]
    last = INSTRUCTIONS[stages[-1] :]
    assert [value for name, value in last if name == "USER"] == ["10001:10001"]
    assert [name for name, _ in last].index("USER") > max(i for i, (name, _) in enumerate(last) if name == "RUN")
    assert any(name == "HEALTHCHECK" for name, _ in last)
    assert set(names) <= {"ARG", "FROM", "COPY", "RUN", "ENV", "USER", "WORKDIR", "VOLUME"} | {
        "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"
    }  # fmt: skip


def test_the_image_fetches_nothing_but_what_the_lock_lists():
    assert "://" not in TEXT
    assert not re.search(r"\b(curl|wget|apt-get|apt|apk|dnf|pip)\b", TEXT)
    assert "install.sh" in TEXT


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_has_a_read_only_root_and_no_rights(name):
    service = SERVICES[name]
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert service["command"][0] == name.removesuffix("-gpu")
    assert any(volume.endswith(":/var/lib/fedhealth") for volume in service["volumes"])


def test_data_are_mounted_read_only_and_one_service_has_a_gpu():
    for name in ("site", "site-gpu"):
        [data] = [volume for volume in SERVICES[name]["volumes"] if "FEDHEALTH_DATA" in volume]
        assert data.endswith(":ro")
        assert "ports" not in SERVICES[name]
    assert [name for name, service in SERVICES.items() if "deploy" in service] == ["site-gpu"]
    assert set(COMPOSE["volumes"]) == {"site", "lead"}


def read_variables():
    """Return the variables that the image sets, for a site."""
    [text] = [value for name, value in INSTRUCTIONS if name == "ENV"]
    return {name: value.replace("${SIDE}", "site") for name, value in re.findall(r"(\w+)=(\S+)", text)}


def run_in_container(home, *command):
    """Run a command as the image would: user 10001 without an entry in passwd, everything read-only but its folder."""
    view = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--tmpfs", "/var/lib"]
    view += ["--bind", str(home), "/var/lib/fedhealth", "--remount-ro", "/var/lib", "--chdir", "/var/lib/fedhealth"]
    view += ["--unshare-user", "--uid", "10001", "--gid", "10001", "--unshare-pid", "--cap-drop", "ALL"]
    variables = read_variables() | {"PYTHONPATH": str(ROOT), "TERM": "dumb"}
    variables["PATH"] = f"{Path(sys.executable).parent}:{variables['PATH']}"
    return subprocess.run(["bwrap", *view, *command], env=variables, capture_output=True, text=True, timeout=300)


@pytest.mark.services
@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap (scripts/system-packages.sh installs it)")
def test_a_user_that_the_machine_does_not_know_sets_a_site_up(tmp_path):
    fedhealth = [sys.executable, "-m", "fedhealth.cli.main"]
    assert read_variables()["HOME"] == "/var/lib/fedhealth"
    made = run_in_container(tmp_path, *fedhealth, "site", "init", "--name", "charite", "--lead", "lead.example:9092")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "keys" / "node.key").stat().st_mode & 0o077 == 0
    health = run_in_container(tmp_path, *fedhealth, "site", "metrics")  # as HEALTHCHECK
    assert health.returncode == 0, health.stderr
    assert "fedhealth_site_up" in health.stdout
    started = run_in_container(tmp_path, *fedhealth, "site", "start")
    assert started.returncode == 2
    assert "no join kit yet" in started.stderr
    assert "Traceback" not in made.stderr + health.stderr + started.stderr


@pytest.mark.services
@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap (scripts/system-packages.sh installs it)")
def test_without_a_home_the_user_is_told_what_to_set(tmp_path):
    command = [sys.executable, "-m", "fedhealth.cli.main", "site", "status"]
    view = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-user", "--uid", "10001"]
    variables = {"PATH": os.defpath, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bwrap", *view, *command], env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "Set HOME" in done.stderr
    assert "Traceback" not in done.stderr
