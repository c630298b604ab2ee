"""What the lead decides about a consortium, read from project.yaml."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from omegaconf import OmegaConf

from fedhealth.consortium.membership import ADDRESS, PROJECT
from fedhealth.errors import ConfigError
from fedhealth.utils.yaml_model import load

_DNS = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,62})(\.[a-z0-9]([a-z0-9-]{0,62}))*", re.ASCII)
_BOUND = re.compile(r"(.{1,253}):([0-9]{1,5})", re.ASCII)
_MOST_DAYS = 36_500
_HEAD = "# Written by `fedhealth lead provision`: edit your own project.yaml and run it again.\n"


@dataclass(frozen=True)
class Project:
    """All of project.yaml.

    Attributes:
        project: the consortium's name: lower case letters, digits, . _ and -.
        lead: host:port that the sites connect to.
        names: further DNS names and IP addresses of that server; its certificate is for these too.
        listen: host:port where the server waits for the sites.
        control_port: on loopback, for the lead's own commands.
        certificate_days: for which the server's certificate is valid.
        authority_days: for which the authority's certificate is valid; a new one needs new kits.

    """

    project: str
    lead: str
    names: tuple[str, ...] = ()
    listen: str = "0.0.0.0:9092"
    control_port: int = 9093
    certificate_days: int = 365
    authority_days: int = 3650

    @property
    def certificate_names(self) -> tuple[str, ...]:
        """What the server's certificate is for, the sites' address first."""
        return tuple(dict.fromkeys([self.lead.rpartition(":")[0], *self.names]))

    @property
    def bind(self) -> tuple[str, int]:
        """Host and port where the server waits for the sites."""
        host, _, port = self.listen.rpartition(":")
        return host, int(port)

    def dumps(self) -> bytes:
        """Return it as a file's content."""
        fields = {**asdict(self), "names": list(self.names)}
        return (_HEAD + OmegaConf.to_yaml(OmegaConf.create(fields))).encode()


def load_project(path: Path) -> Project:
    """Read and check project.yaml.

    Raises:
        ConfigError: it is missing, unreadable, or holds a fault; all faults are named.

    """
    if not path.exists():
        raise ConfigError(f"{path}: there is no such file.", "`fedhealth lead provision` reads the project from it.")
    return load(path, Project, faults_of, "Correct the file; nothing was made.")


def faults_of(project: Project) -> list[str]:
    """Return what is wrong with a project's values."""
    faults = []
    if not PROJECT.fullmatch(project.project):
        faults.append(f"project: {project.project!r} is no plain name (lower case letters, digits, . _ and -).")
    if not ADDRESS.fullmatch(project.lead) or not _is_port(project.lead.rpartition(":")[2]):
        faults.append(f"lead: {project.lead!r} is no host:port in lower case.")
    elif not _is_name(project.lead.rpartition(":")[0]):
        faults.append(f"lead: {project.lead!r} names no host.")
    faults += [f"names: {name!r} is no DNS name or IP address." for name in project.names if not _is_name(name)]
    bound = _BOUND.fullmatch(project.listen)
    if not bound or not _is_port(bound[2]) or not _is_name(bound[1]):
        faults.append(f"listen: {project.listen!r} is no host:port.")
    if not _is_port(str(project.control_port)) or (bound and bound[2] == str(project.control_port)):
        faults.append("control_port: must lie between 1 and 65535 and differ from the one in listen.")
    if not 1 <= project.certificate_days <= project.authority_days <= _MOST_DAYS:
        faults.append(f"certificate_days: must lie between 1 and authority_days, and that at most at {_MOST_DAYS}.")
    return faults


def _is_port(digits: str) -> bool:
    return digits.isdecimal() and 1 <= int(digits) <= 65535


def _is_name(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return bool(_DNS.fullmatch(name))
    return True
