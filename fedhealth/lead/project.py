"""The settings of a consortium, read from project.yaml."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from omegaconf import OmegaConf

from fedhealth.consortium.membership import ADDRESS, PROJECT
from fedhealth.errors import ConfigError
from fedhealth.utils.yaml_model import load_yaml

_DNS = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,62})(\.[a-z0-9]([a-z0-9-]{0,62}))*", re.ASCII)
_BOUND = re.compile(r"(.{1,253}):([0-9]{1,5})", re.ASCII)
_MAX_DAYS = 36_500
_HEAD = "# Written by `fedhealth lead provision`: edit your own project.yaml and run it again.\n"


@dataclass(frozen=True)
class Project:
    """The content of project.yaml.

    Attributes:
        project: the consortium's name: lower case letters, digits, . _ and -.
        lead: host:port that the sites connect to.
        names: further DNS names and IP addresses of that server; its certificate is for these too.
        listen: host:port on which the server listens for the sites.
        control_port: port on loopback, for the lead's own commands.
        certificate_days: validity of the server's certificate.
        authority_days: validity of the authority's certificate; a new one needs new kits.

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
        """The names and addresses in the server's certificate, the sites' address first."""
        return tuple(dict.fromkeys([self.lead.rpartition(":")[0], *self.names]))

    @property
    def listen_address(self) -> tuple[str, int]:
        """Host and port on which the server listens for the sites."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    def dumps(self) -> bytes:
        """Return the content of project.yaml."""
        fields = {**asdict(self), "names": list(self.names)}
        return (_HEAD + OmegaConf.to_yaml(OmegaConf.create(fields))).encode()


def load_project(path: Path) -> Project:
    """Read and validate project.yaml.

    Raises:
        ConfigError: it is missing, unreadable or invalid; the message lists every error.

    """
    if not path.exists():
        raise ConfigError(f"{path} does not exist.", "Write it: `fedhealth lead provision` reads the project from it.")
    return load_yaml(path, Project, find_project_faults, "Correct the file; nothing was created.")


def find_project_faults(project: Project) -> list[str]:
    """Return every error in a project's values."""
    faults = []
    if not PROJECT.fullmatch(project.project):
        faults.append(f"project: {project.project!r} is not a valid name (lower case letters, digits, . _ and -).")
    if not ADDRESS.fullmatch(project.lead) or not _is_port(project.lead.rpartition(":")[2]):
        faults.append(f"lead: {project.lead!r} is not host:port in lower case.")
    elif not _is_host(project.lead.rpartition(":")[0]):
        faults.append(f"lead: {project.lead!r} has no valid host name.")
    faults += [f"names: {name!r} is not a DNS name or IP address." for name in project.names if not _is_host(name)]
    bound = _BOUND.fullmatch(project.listen)
    if not bound or not _is_port(bound[2]) or not _is_host(bound[1]):
        faults.append(f"listen: {project.listen!r} is not host:port.")
    if not _is_port(str(project.control_port)) or (bound and bound[2] == str(project.control_port)):
        faults.append("control_port: must lie between 1 and 65535 and differ from the port in listen.")
    if not 1 <= project.certificate_days <= project.authority_days <= _MAX_DAYS:
        faults.append(f"certificate_days: must lie between 1 and authority_days, which is at most {_MAX_DAYS}.")
    return faults


def _is_port(digits: str) -> bool:
    return digits.isdecimal() and 1 <= int(digits) <= 65535


def _is_host(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return bool(_DNS.fullmatch(name))
    return True
