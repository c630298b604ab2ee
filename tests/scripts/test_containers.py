"""Containerfile and compose file: not root, read-only, without rights, with a health check. Nothing is built here."""

import re
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
