"""Status of a run, for people and monitors; it is read from the run's files, for every runtime, also after its end.

A run is `running`, `waiting` (for hospitals that are named), `interrupted` (run.json says running, but no process works
on it), or it ended as `completed`, `stopped` or `failed`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedhealth.errors import ConfigError
from fedhealth.runs.damage import explain_damage
from fedhealth.runs.event_summary import EventSummary
from fedhealth.runs.run_dir import RunDir
from fedhealth.runs.run_metadata import RunError

RUN_STATES = ("running", "waiting", "completed", "stopped", "failed", "interrupted")
LEAD_SERVER = "the lead's server"
_ACTIVE_FLOWER_STATES = ("pending", "starting", "running")  # Flower's states of a run that has not finished


@dataclass(frozen=True)
class RunStatus:
    """Status of a run.

    Attributes:
        folder: the run directory.
        run: the run's id.
        name: the experiment's name.
        state: one of `RUN_STATES`.
        summary: of the run's events.
        waiting_for: sites that have to reply or connect, or the server that has to be started.
        error: why the run ended, or the latest problem.
        advice: what to do about it.

    """

    folder: Path
    run: str
    name: str
    state: str
    summary: EventSummary
    waiting_for: tuple[str, ...]
    error: str
    advice: str


ServerQuery = Callable[[RunDir], str]
"""Return a run's state at the lead's server: `away`, or Flower's state, such as `running` or `finished:failed`."""


def get_run_status(run: RunDir, query_server: ServerQuery, summary: EventSummary | None = None) -> RunStatus:
    """Return the status of the run in a folder.

    Args:
        run: the folder.
        query_server: called for a deployed run that has not completed.
        summary: of the run's events, if they have been read already.

    Raises:
        ConfigError: the folder contains no run, or its events are damaged.

    """
    info = run.info
    if not run.exists:
        raise ConfigError(f"{run.path} contains no run.", "Give the folder that contains run.json.")
    if summary is None:
        with explain_damage(run.path / "events.jsonl"):
            summary = EventSummary().add_events(run.read_events()[0])
    state: str = info.state
    waiting_for = summary.missing
    flower_state = query_server(run) if info.flower_run and info.state != "completed" else ""
    if state == "running" or flower_state.startswith(_ACTIVE_FLOWER_STATES):  # its launcher may have died
        state, waiting_for = _check_active_run(run, summary, flower_state)
    ended = state in ("completed", "stopped", "failed")
    fault = info.fault if ended else RunError()
    advice = _build_advice(run, state, waiting_for, summary, fault.advice)
    return RunStatus(
        run.path,
        info.run,
        info.name,
        state,
        summary,
        () if ended else waiting_for,
        fault.problem or summary.trouble,
        advice,
    )


def _check_active_run(run: RunDir, summary: EventSummary, flower_state: str) -> tuple[str, tuple[str, ...]]:
    """Return the state of a run that has not ended, and what it waits for."""
    if flower_state == "away":
        return "waiting", (LEAD_SERVER,)
    if not (run.is_running or flower_state.startswith(_ACTIVE_FLOWER_STATES)):
        return "interrupted", ()
    if summary.missing:
        return "waiting", summary.missing
    return "running", tuple(name for name, site in summary.sites.items() if site.state == "working")


def _build_advice(
    run: RunDir, state: str, waiting_for: tuple[str, ...], summary: EventSummary, error_advice: str
) -> str:
    resume = f"`fedhealth run resume={run.path}`"
    if state == "completed":
        return f"See its report: {run.path / 'report.html'}."
    if state == "waiting":
        if waiting_for == (LEAD_SERVER,):
            return "Start it with `fedhealth lead serve`; the run then resumes by itself."
        return f"Ask {', '.join(waiting_for)} to run `fedhealth site status`; the run resumes once they are connected."
    if state == "running":
        return ""
    effect = f"resumes it after round {summary.completed}" if summary.completed else "restarts it"
    return f"{error_advice} {resume} {effect}.".strip()
