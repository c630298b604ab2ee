"""How a run stands, for people and monitors: read from its own files, for every runtime, also long after it ended.

It is `running`, `waiting` for somebody who is named, `interrupted` (run.json says running, nobody works on it), or has
ended: `completed`, `stopped`, `failed`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedhealth.errors import ConfigError
from fedhealth.runs.event_summary import Account
from fedhealth.runs.run_dir import RunDir

STATES = ("running", "waiting", "completed", "stopped", "failed", "interrupted")
SERVER = "the lead's server"
_GOING_ON = ("pending", "starting", "running")  # what Flower calls a run that has not finished


@dataclass(frozen=True)
class Standing:
    """How a run stands.

    Attributes:
        folder: the run directory.
        run: the run's id.
        name: of the experiment.
        state: one of `STATES`.
        account: what happened.
        waiting_for: who has to answer, connect or be started next.
        error: what ended it, or the latest thing that went wrong.
        advice: what to do about it.

    """

    folder: Path
    run: str
    name: str
    state: str
    account: Account
    waiting_for: tuple[str, ...]
    error: str
    advice: str


Server = Callable[[RunDir], str]
"""What the lead's server says of a run: `away`, or Flower's status and result, such as `running`, `finished:failed`."""


def standing(run: RunDir, server: Server, account: Account | None = None) -> Standing:
    """Tell how the run in a folder stands.

    Args:
        run: the folder.
        server: asked about a run in the hospitals that has not completed.
        account: of the run's events, where they were read already.

    Raises:
        ConfigError: it holds no run.

    """
    about = run.about
    if not about:
        raise ConfigError(f"{run.path} holds no run.", "Give the folder that has its run.json.")
    account = account or Account().take(run.events()[0])
    state, waiting_for = str(about["state"]), account.missing
    said = server(run) if "flower_run" in about and state != "completed" else ""
    if state == "running" or said.startswith(_GOING_ON):  # whoever started it may have gone away
        state, waiting_for = _unended(run, account, said)
    ended = state in ("completed", "stopped", "failed")
    fault = (about.get("error") or {}) if ended else {}
    error = fault.get("problem") or account.trouble
    advice = _advice(run, state, waiting_for, account, str(fault.get("advice", "")))
    return Standing(
        run.path,
        str(about.get("run", "")),
        str(about.get("name", "")),
        state,
        account,
        () if ended else waiting_for,
        str(error),
        advice,
    )


def _unended(run: RunDir, account: Account, said: str) -> tuple[str, tuple[str, ...]]:
    """Return the state of a run that has not ended, and who is waited for."""
    if said == "away":
        return "waiting", (SERVER,)
    if not (run.alive or said.startswith(_GOING_ON)):
        return "interrupted", ()
    if account.missing:
        return "waiting", account.missing
    return "running", tuple(name for name, site in account.sites.items() if site.state == "working")


def _advice(run: RunDir, state: str, waiting_for: tuple[str, ...], account: Account, said: str) -> str:
    resume = f"`fedhealth run resume={run.path}`"
    if state == "completed":
        return f"Its report is {run.path / 'report.html'}."
    if state == "waiting":
        if waiting_for == (SERVER,):
            return "Start it: `fedhealth lead serve`; the run goes on by itself."
        return f"Ask {', '.join(waiting_for)} for `fedhealth site status`; the run goes on once they are here."
    if state == "running":
        return ""
    after = f"goes on after round {account.completed}" if account.completed else "begins it again"
    return f"{said} {resume} {after}.".strip()
