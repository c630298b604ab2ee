"""runtime=deployment: the lead's server on this machine, the sites in the hospitals.

The job is signed and submitted to the server; a server application runs the rounds in a separate process, also after
the launching process has ended. `fedhealth run resume=FOLDER` attaches to a running job and restarts one that ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedhealth.config.override_allowlist import find_override_errors, select_shared_overrides
from fedhealth.consortium.identity import save_roster
from fedhealth.consortium.membership import SignedMembership
from fedhealth.consortium.research_study import SignedStudy
from fedhealth.errors import ConfigError, FederationError
from fedhealth.flower.app_bundle import build_bundle
from fedhealth.flower.server.control_client import ControlClient, FlowerRun
from fedhealth.lead.connect_control import connect_control
from fedhealth.lead.home import LeadHome
from fedhealth.lead.job_store import save_job
from fedhealth.lead.publish_study import find_or_make_study, get_study_path
from fedhealth.lead.sign_job import sign_job
from fedhealth.lead.site_overview import SiteOverview, list_sites
from fedhealth.protocol.budget_request import BudgetRequest
from fedhealth.protocol.job import Job, compose_job_config
from fedhealth.runs.run_dir import RunDir

_POLL_SECONDS = 0.5
_DEAD_SECONDS = 3.0  # without a server app process, until it is restarted
_ATTEMPTS = 3  # without a completed round in between


class DeploymentRuntime:
    """Runs a job in the hospitals.

    Args:
        home: the lead's folder; null uses FEDHEALTH_LEAD, then ~/.fedhealth-lead.
        hours: after which the job expires at the sites.

    """

    data_are_local = False  # they stay in the hospitals

    def __init__(self, home: str | None = None, hours: float = 72.0) -> None:
        self.home, self.hours = LeadHome.find(Path(home) if home else None), hours

    def launch(self, job: Job) -> None:
        """Run the job to its end, or attach to it if it is already running.

        Raises:
            ConfigError: no site would accept its overrides, or the server is not running.
            FederationError: the run was stopped or failed.

        """
        run, overrides = RunDir(Path(job.folder)), select_shared_overrides(job.overrides)
        budget_request, further = (
            _select_site_overrides(job.budget_request),
            Path(job.config_dir) if job.config_dir else None,
        )
        requested = [overrides, *(run.overrides for run in budget_request.runs)] if budget_request else [overrides]
        if faults := dict.fromkeys(fault for each in requested for fault in find_override_errors(each, further)):
            listed = "\n".join(faults)
            raise ConfigError(
                f"No hospital accepts these overrides:\n{listed}", "Put them into an installed configuration."
            )
        membership = SignedMembership.loads(self.home.membership.read_bytes()).membership
        save_roster(run.path, {member.site: member.identity for member in membership.members})
        save_job(self.home, job)
        self._check_sites(job, run)
        study = self._announce_study(job, run, overrides, budget_request)
        with connect_control(self.home) as control:
            self._run_to_completion(control, run, lambda: self._sign(job, overrides, budget_request, study))

    def _announce_study(
        self, job: Job, run: RunDir, overrides: Sequence[str], budget_request: BudgetRequest | None
    ) -> SignedStudy:
        """Return the published study of the run, or of a sweep's runs; make one where there is none, and say so."""
        asked: dict[str, Sequence[str]] = {job.run: overrides}
        if budget_request is not None and budget_request.runs:
            asked = {each.run: each.overrides for each in budget_request.runs}
        is_release = budget_request is not None and not budget_request.runs
        further = Path(job.config_dir) if job.config_dir else None
        signed, is_new = find_or_make_study(self.home, asked, further, count=not is_release)
        name, path = signed.study.name, get_study_path(self.home, signed.study)
        if is_new:
            run.append_event(
                "caution",
                title=f"Study {name}",
                text=f"{path} was made from this command; it travels with the order. Each hospital decides once: "
                f"fedhealth site study approve {name}",
            )
        run.update_info(study=signed.study.label)
        return signed

    def _check_sites(self, job: Job, run: RunDir) -> None:
        """Name every hospital of the run whose release or kit does not fit, before anything is sent.

        Raises:
            FederationError: fewer hospitals than are needed could accept the job.
            ConfigError: the server is not running.

        """
        config = compose_job_config(job)
        sites = [each for each in list_sites(self.home) if each.site in config.data.sites and each.problems]
        for each in sites:
            run.append_event("handshake", site=each.site, versions="", **_describe_problems(each))
        needed = config.strategy.min_sites or len(config.data.sites)
        if len(config.data.sites) - len(sites) < needed:
            found = [_describe_problems(each) for each in sites]
            listed = "".join(
                f"\n  {each.site}: {'; '.join(said['reasons'])}. {said['fix']}"
                for each, said in zip(sites, found, strict=True)
            )
            raise FederationError(
                f"{len(sites)} of {len(config.data.sites)} sites cannot take part, {needed} are needed.{listed}",
                "Nothing was sent. `fedhealth lead sites` shows every hospital's release and kit.",
            )

    def _sign(
        self, job: Job, overrides: Sequence[str], budget_request: BudgetRequest | None, study: SignedStudy
    ) -> tuple[str, str, str]:
        digest, bundle = study.study.digest, build_bundle().digest
        signed = sign_job(self.home, job.run, overrides, job.digest, bundle, self.hours, budget_request, digest)
        return (*signed, study.dumps().decode())

    def _run_to_completion(self, control: ControlClient, run: RunDir, sign: Callable[[], tuple[str, str, str]]) -> None:
        """Run all rounds; restart the server app from the last completed round if it is killed.

        Raises:
            FederationError: the run was stopped, failed, or was killed repeatedly without a completed round.

        """
        attempts = 0
        while True:
            before, position = _count_completed_rounds(run), run.read_events()[1]
            known = self._find_flower_run(control, run)
            if known is None or (known.status == "finished" and known.result != "completed"):
                known = FlowerRun(control.start_run(build_bundle(), *sign()), "pending", "", "")
                run.update_info(flower_run=str(known.id))
            ended = self._wait_for_end(control, run, known.id)
            if ended.result == "completed":  # possibly while no launcher was attached
                return
            attempts = 1 if _count_completed_rounds(run) > before else attempts + 1
            error = _build_error(run, ended, position)
            if not isinstance(error, _ServerAppKilledError) or attempts == _ATTEMPTS:
                raise error
            run.append_event("restarting", reason=error.problem)

    def _find_flower_run(self, control: ControlClient, run: RunDir) -> FlowerRun | None:
        """Return the job's state at the server, or None if it was never started there."""
        number = run.info.flower_run
        return control.get_run(int(number)) if number else None

    def _wait_for_end(self, control: ControlClient, run: RunDir, number: int) -> FlowerRun:
        """Wait for the end of the run; the server may be down for a while.

        Flower notices after a minute that the server app's process has died; the released lock of the run directory
        shows it at once.
        """
        seen, unserved = False, 0
        while True:
            try:
                found = control.get_run(number)
                if found.status == "finished":
                    return found
                unserved = 0 if run.is_served else unserved + 1
                seen = seen or not unserved
                if seen and unserved * _POLL_SECONDS >= _DEAD_SECONDS:
                    control.stop_run(number)
                    return FlowerRun(number, "finished", "failed", "the server app's process has died")
            except ConfigError:  # the server is restarting
                unserved = 0
                time.sleep(10 * _POLL_SECONDS)
            time.sleep(_POLL_SECONDS)


def _select_site_overrides(budget_request: BudgetRequest | None) -> BudgetRequest | None:
    """Return a sweep's budget request with the overrides that are sent to the sites."""
    if budget_request is None:
        return None
    return replace(
        budget_request,
        runs=tuple(
            replace(run, overrides=tuple(select_shared_overrides(run.overrides))) for run in budget_request.runs
        ),
    )


def _describe_problems(site: SiteOverview) -> dict[str, Any]:
    """Return the reasons for which a site would refuse, and the fixes, as an event holds them."""
    return {
        "reasons": [each.problem for each in site.problems],
        "fix": " ".join(dict.fromkeys(each.fix for each in site.problems)),
    }


class _ServerAppKilledError(FederationError):
    """The server app's process ended without reporting an error."""


def _count_completed_rounds(run: RunDir) -> int:
    return sum(event["event"] == "round_completed" for event in run.read_events()[0])


def _build_error(run: RunDir, ended: FlowerRun, position: int) -> FederationError:
    """Return why a run did not complete: the error that the server application reported, if any."""
    if ended.result == "stopped":
        return FederationError("The run was stopped.", f"`fedhealth run resume={run.path}` resumes it.")
    reported = [event for event in run.read_events(position)[0] if event["event"] == "failed"]
    if reported:
        return FederationError(str(reported[-1]["problem"]), str(reported[-1]["advice"]))
    return _ServerAppKilledError(
        f"The server application ended ({ended.details or ended.result}).",
        f"See {run.path / 'fedhealth.log'} and the lead's executor.log; `fedhealth run resume={run.path}` resumes it.",
    )
