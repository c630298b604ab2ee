"""runtime=deployment: the lead's server here, the sites in the hospitals.

The job is signed and handed to the server; a server application does the rounds in a process of its own. Whoever
started it may go away and come back: `fedhealth run resume=FOLDER` attaches to a run that goes on, and starts one again
that does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from fedhealth.config.override_allowlist import screen, travelling
from fedhealth.consortium.identity import save_roster
from fedhealth.consortium.membership import SignedMembership
from fedhealth.errors import ConfigError, FederationError
from fedhealth.flower.app_bundle import bundle
from fedhealth.flower.server.control_client import Control, FlowerRun
from fedhealth.lead.connect_control import connect_control
from fedhealth.lead.home import LeadHome
from fedhealth.lead.job_store import save_job
from fedhealth.lead.sign_job import make_order
from fedhealth.protocol.budget_request import Statement
from fedhealth.protocol.job import Job
from fedhealth.runs.run_dir import RunDir

_LOOK_SECONDS = 0.5
_GONE_SECONDS = 3.0  # without the process that does the rounds, until it is started again
_TRIES = 3  # without a completed round in between


class DeploymentRuntime:
    """Runs a job in the hospitals.

    Args:
        home: the lead's folder; null takes FEDHEALTH_LEAD, then ~/.fedhealth-lead.
        hours: after which no site answers this job any more.

    """

    local_data = False  # they stay in the hospitals

    def __init__(self, home: str | None = None, hours: float = 72.0) -> None:
        self.home, self.hours = LeadHome.find(Path(home) if home else None), hours

    def launch(self, job: Job) -> None:
        """Run the job to its end, or attach to it where it runs already.

        Raises:
            ConfigError: no site would accept its words, or there is no server.
            FederationError: it was stopped, or failed.

        """
        run, words = RunDir(Path(job.folder)), travelling(job.overrides)
        statement, further = _travelling(job.statement), Path(job.config_dir) if job.config_dir else None
        asked = [words, *(run.words for run in statement.runs)] if statement else [words]
        if faults := dict.fromkeys(fault for each in asked for fault in screen(each, further)):
            shown = "\n".join(faults)
            raise ConfigError(f"No hospital accepts these words:\n{shown}", "Put them into an installed configuration.")
        membership = SignedMembership.loads(self.home.membership.read_bytes()).membership
        save_roster(run.path, {member.site: member.identity for member in membership.members})
        save_job(self.home, job)
        with connect_control(self.home) as control:
            self._to_the_end(control, run, lambda: self._order(job, words, statement))

    def _order(self, job: Job, words: Sequence[str], statement: Statement | None) -> tuple[str, str]:
        return make_order(self.home, job.run, words, job.digest, bundle().digest, self.hours, statement)

    def _to_the_end(self, control: Control, run: RunDir, order: Callable[[], tuple[str, str]]) -> None:
        """Have the rounds done; again, from the last completed one, where the process that does them was killed.

        Raises:
            FederationError: it was stopped, failed, or was killed again and again without a completed round.

        """
        tries = 0
        while True:
            before, position = _rounds(run), run.events()[1]
            known = self._known(control, run)
            if known is None or (known.status == "finished" and known.result != "completed"):
                known = FlowerRun(control.start(bundle(), *order()), "pending", "", "")
                run.update(flower_run=str(known.id))
            ended = self._wait(control, run, known.id)
            if ended.result == "completed":  # also while nobody waited for it here
                return
            tries = 1 if _rounds(run) > before else tries + 1
            failed = _fault(run, ended, position)
            if not isinstance(failed, _KilledError) or tries == _TRIES:
                raise failed
            run.event("restarting", reason=failed.problem)

    def _known(self, control: Control, run: RunDir) -> FlowerRun | None:
        """Return how the job stands at the server, if it was ever started there."""
        number = run.about.get("flower_run")
        return control.run(int(number)) if number else None

    def _wait(self, control: Control, run: RunDir, number: int) -> FlowerRun:
        """Wait for the end; the server may be away for a while.

        Flower notices after a minute that the process with the rounds is gone; that it holds the run no more tells at
        once.
        """
        seen, unserved = False, 0
        while True:
            try:
                found = control.run(number)
                if found.status == "finished":
                    return found
                unserved = 0 if run.served else unserved + 1
                seen = seen or not unserved
                if seen and unserved * _LOOK_SECONDS >= _GONE_SECONDS:
                    control.stop(number)
                    return FlowerRun(number, "finished", "failed", "its process is gone")
            except ConfigError:  # it is being started again
                unserved = 0
                time.sleep(10 * _LOOK_SECONDS)
            time.sleep(_LOOK_SECONDS)


def _travelling(statement: Statement | None) -> Statement | None:
    """Return a sweep's statement in words that concern the sites."""
    if statement is None:
        return None
    return replace(statement, runs=tuple(replace(run, words=tuple(travelling(run.words))) for run in statement.runs))


class _KilledError(FederationError):
    """The process that did the rounds ended without a word."""


def _rounds(run: RunDir) -> int:
    return sum(event["event"] == "round_completed" for event in run.events()[0])


def _fault(run: RunDir, ended: FlowerRun, position: int) -> FederationError:
    """Return why a run did not complete, in the words of the server application where it left some."""
    if ended.result == "stopped":
        return FederationError("The run was stopped.", f"`fedhealth run resume={run.path}` goes on with it.")
    said = [event for event in run.events(position)[0] if event["event"] == "failed"]
    if said:
        return FederationError(str(said[-1]["problem"]), str(said[-1]["advice"]))
    return _KilledError(
        f"The server application ended ({ended.details or ended.result}).",
        f"See {run.path / 'fedhealth.log'} and the lead's executor.log; `fedhealth run resume={run.path}` goes on.",
    )
