"""Connect to the control API of the lead's own SuperLink, and query the status of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fedhealth.errors import FedhealthError
from fedhealth.lead.home import LeadHome
from fedhealth.lead.project import load_project
from fedhealth.runs.run_dir import RunDir

if TYPE_CHECKING:  # gRPC takes a second to import, and a run on one machine asks no server
    from fedhealth.flower.server.control_client import ControlClient


def connect_control(home: LeadHome) -> ControlClient:
    """Return a control API client for the server of the consortium at `home`; it is a context manager."""
    from fedhealth.flower.server.control_client import ControlClient

    return ControlClient(load_project(home.project).control_port, home.load_control_token())


def query_server_status(run: RunDir) -> str:
    """Return the server's status of a run, see `fedhealth.runs.run_status.ServerQuery`; `away` if there is none."""
    try:
        home = OmegaConf.select(OmegaConf.load(run.path / "config.yaml"), "runtime.home")
        with connect_control(LeadHome.find(Path(str(home)) if home else None)) as control:
            found = control.get_run(int(run.info.flower_run))
    except (FedhealthError, OSError, LookupError, ValueError, YAMLError, OmegaConfBaseException):
        return "away"
    return f"{found.status}:{found.result}".rstrip(":")
