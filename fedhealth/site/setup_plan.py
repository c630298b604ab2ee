"""What `fedhealth site setup` is told, and the systemd unit and the policy that follow from it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fedhealth.consortium.membership import ADDRESS
from fedhealth.errors import ConfigError
from fedhealth.flower.client.proxy import ENVIRONMENT
from fedhealth.site.policy import DataSource, ProxySettings
from fedhealth.types import SITE_ID, UserPath
from fedhealth.utils.yaml_model import load_yaml

UNIT_NAME = "fedhealth-site.service"
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}", re.ASCII)
_EXAMPLE = re.compile(r"\.example(:\d+)?$", re.ASCII)  # a domain that belongs to nobody
_ADVICE = "Correct the file, and run `fedhealth site setup` with it again."
_DEFAULT_HOME, _DEFAULT_PROGRAM = "/var/lib/fedhealth", "/opt/fedhealth/bin/fedhealth"


@dataclass(frozen=True)
class SetupAnswers:
    """The content of setup.yaml.

    Attributes:
        name: the hospital's name in the consortium.
        lead: host:port of the lead's server.
        data: data sources as in site.yaml.
        proxy: as in site.yaml.
        user: the account of the service; created if it does not exist.
        home: the only folder that the service may write to.
        units: folder of systemd units.

    """

    name: str
    lead: str
    data: Mapping[str, DataSource] = field(default_factory=dict)
    proxy: ProxySettings = field(default_factory=ProxySettings)
    user: str = "fedhealth"
    home: UserPath = Path(_DEFAULT_HOME)
    units: UserPath = Path("/etc/systemd/system")


def load_setup_answers(path: Path) -> SetupAnswers:
    """Read setup.yaml.

    Raises:
        ConfigError: it cannot be read or holds faults; all of them are listed.

    """
    return load_yaml(path, SetupAnswers, find_setup_faults, _ADVICE)


def find_setup_faults(answers: SetupAnswers) -> list[str]:
    """Return what is wrong with answers that have the right types."""
    faults = []
    if not SITE_ID.fullmatch(answers.name):
        faults.append(f"name: {answers.name!r} is not a valid site name (lower case letters, digits, . _ and -).")
    if not ADDRESS.fullmatch(answers.lead):
        faults.append(f"lead: {answers.lead!r} is not host:port.")
    for name, address in (("lead", answers.lead), ("proxy.address", answers.proxy.address)):
        if _EXAMPLE.search(address):
            faults.append(f"{name}: {address} is the example that this file came with; write your own.")
    if not _USER.fullmatch(answers.user) or answers.user == "root":
        faults.append(f"user: {answers.user!r} cannot be the service's account; it must be one without special rights.")
    for name, path in (("home", answers.home), ("units", answers.units)):
        if not path.is_absolute() or any(character.isspace() for character in str(path)):
            faults.append(f"{name}: {path} must be absolute, without blanks.")
    for name, source in answers.data.items():
        if not source.root.is_absolute():
            faults.append(f"data.{name}.root: {source.root} must be absolute.")
        if source.root.is_relative_to("/tmp") or source.root.is_relative_to("/var/tmp"):  # noqa: S108
            faults.append(f"data.{name}.root: {source.root}: the service has a /tmp of its own; move the data.")
        if source.cache is not None:
            faults.append(f"data.{name}.cache: the cache lies in home; remove this line.")
    return faults


def find_machine_faults(answers: SetupAnswers) -> list[str]:
    """Return what the answers name and this machine does not have; called before anything is changed."""
    faults = [
        f"data.{name}.root: there is no folder {source.root}."
        for name, source in answers.data.items()
        if not source.root.is_dir()
    ]
    if (file := answers.proxy.credentials) is not None:
        try:
            user, separator, _ = file.read_text("utf-8").partition(":")
            if not separator or not user:
                faults.append(f"proxy.credentials: {file} does not hold one line user:password.")
        except (OSError, ValueError) as fault:
            faults.append(f"proxy.credentials: {file} cannot be read ({getattr(fault, 'strerror', 'no text')}).")
    return faults


def render_unit(answers: SetupAnswers, program: Path) -> str:
    """Return the systemd unit for this user, folder and installation.

    Args:
        answers: what the service needs.
        program: absolute path of the command `fedhealth`.

    """
    text = _find_unit().read_text("utf-8")
    text = text.replace(_DEFAULT_PROGRAM, str(program)).replace(_DEFAULT_HOME, str(answers.home))
    return text.replace("User=fedhealth\n", f"User={answers.user}\n")


def read_unit_settings(unit: str) -> list[tuple[str, str]]:
    """Return the settings of a unit's [Service] section, in order."""
    section = unit.partition("[Service]")[2].partition("[Install]")[0]
    lines = [line.strip() for line in section.splitlines()]
    return [
        (name, value) for name, equals, value in (line.partition("=") for line in lines if line[:1] != "#") if equals
    ]


def read_unit_environment(unit: str) -> dict[str, str]:
    """Return the variables that a unit sets."""
    return {
        name: value
        for key, assignment in read_unit_settings(unit)
        if key == "Environment"
        for name, _, value in [assignment.partition("=")]
    }


def render_policy_sections(answers: SetupAnswers, credentials: Path | None) -> str:
    """Return the lines to add to site.yaml: data and proxy.

    Args:
        answers: what was asked.
        credentials: the service's own copy of the proxy's password file.

    """
    lines = []
    if answers.data:
        lines += ["data:", *(f"  {json.dumps(name)}: {_format_source(each)}" for name, each in answers.data.items())]
    if answers.proxy.address != ENVIRONMENT:
        proxy = {"address": answers.proxy.address} | ({"credentials": str(credentials)} if credentials else {})
        lines.append(f"proxy: {json.dumps(proxy)}")
    return "".join(f"{line}\n" for line in lines)


def _format_source(source: DataSource) -> str:
    """Return a data source as JSON, which is YAML, without the fields that have their default."""
    given: dict[str, Any] = {}
    for each in fields(DataSource):
        value = getattr(source, each.name)
        default = {} if each.name == "columns" else each.default
        if value != default:
            given[each.name] = str(value) if isinstance(value, Path) else value
    return json.dumps(given)


def _find_unit() -> Path:
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "units", package.parent / "scripts"):
        if (folder / UNIT_NAME).is_file():
            return folder / UNIT_NAME
    raise ConfigError(f"No systemd unit beside {package}.", "Reinstall fedhealth: its folder of units is missing.")
