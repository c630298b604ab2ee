"""The content of run.json: what a run was started with, its state, and why it ended."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fedhealth.config.capabilities import Capabilities
from fedhealth.errors import ConfigError
from fedhealth.runs.damage import ADVICE
from fedhealth.utils.atomic_io import write_json
from fedhealth.utils.json_model import read_model

RUN_FILE = "run.json"


@dataclass(frozen=True)
class RunError:
    """Why a run failed or was stopped: the error's class, and its two sentences."""

    kind: str = ""
    problem: str = ""
    advice: str = ""


@dataclass(frozen=True)
class RunMetadata:
    """What run.json says; a field that it lacks is empty.

    Attributes:
        state: of the run, as it was written last; a run that says `running` may have been killed.
        started: ISO time.
        finished: likewise.
        run: the run's id.
        name: of the experiment.
        overrides: as the person gave them.
        config_dir: an additional folder of configuration files.
        versions: of Python and the packages on which results depend.
        revision: of the source; None outside a checkout.
        reservation_only: whether the run only reserves the budget of a sweep.
        digest: of the configuration.
        job: the overrides that were sent.
        capabilities: what the run's parts declare.
        error: why it ended; None for a run that did not fail.
        study: name and version of the study that it belongs to.
        flower_run: its number at the lead's server.

    """

    state: Literal["running", "completed", "stopped", "failed", "unknown"] = "unknown"
    started: str = ""
    finished: str = ""
    run: str = ""
    name: str = ""
    overrides: tuple[str, ...] = ()
    config_dir: str = ""
    versions: str = ""
    revision: str | None = None
    reservation_only: bool = False
    digest: str = ""
    job: tuple[str, ...] = ()
    capabilities: Capabilities | None = None
    error: RunError | None = None
    study: str = ""
    flower_run: str = ""

    @property
    def fault(self) -> RunError:
        """The error, or an empty one."""
        return self.error or RunError()


def read_metadata(folder: Path) -> RunMetadata | None:
    """Return what the run.json of a folder says; None where there is none.

    Raises:
        ConfigError: it is damaged; all faults are listed.

    """
    return read_model(folder / RUN_FILE, RunMetadata, ADVICE, ConfigError)


def write_metadata(folder: Path, info: RunMetadata) -> None:
    """Write run.json; fields that are empty are left out."""
    empty: dict[str, Any] = asdict(RunMetadata())
    fields = {name: value for name, value in asdict(info).items() if value != empty[name]}
    write_json(folder / RUN_FILE, fields)
