"""Connect to the control API of the lead's own server, and ask it about a run."""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf

from fedhealth.errors import FedhealthError
from fedhealth.flower.server.control_client import Control
from fedhealth.lead.home import LeadHome
from fedhealth.lead.project import load_project
from fedhealth.runs.run_dir import RunDir


def connect_control(home: LeadHome) -> Control:
    """Return a client of the server of the consortium at `home`; a context manager."""
    return Control(load_project(home.project).control_port, home.token())


def query_server_status(run: RunDir) -> str:
    """Return what the lead's server says of a run: `away`, or Flower's status, see `fedhealth.runs.run_status.Server`."""
    home = OmegaConf.select(OmegaConf.load(run.path / "config.yaml"), "runtime.home")
    try:
        with connect_control(LeadHome.find(Path(str(home)) if home else None)) as control:
            found = control.run(int(run.about["flower_run"]))
    except (FedhealthError, OSError, LookupError):
        return "away"
    return f"{found.status}:{found.result}".rstrip(":")
