"""What the lead's page shows of runs: state, round, who is waited for, and the gains that a run knows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from fedhealth.errors import FedhealthError
from fedhealth.evaluation.metrics import PRIMARY_METRIC, Estimate
from fedhealth.lead.connect_control import query_server_status
from fedhealth.lead.home import LeadHome
from fedhealth.lead.job_store import iter_jobs, list_damaged_jobs
from fedhealth.lead.web.contents import format_promise
from fedhealth.protocol.job import Job
from fedhealth.runs.guarantee import get_promised_guarantee
from fedhealth.runs.load_record import load_run_record
from fedhealth.runs.record import RunRecord
from fedhealth.runs.results import SiteGain
from fedhealth.runs.run_dir import RunDir
from fedhealth.runs.run_status import RunStatus, get_run_status
from fedhealth.utils.plain_files import is_plain_file
from fedhealth.utils.time_text import format_time
from fedhealth.web.content import Content, DataTable

REPORT_FILE = "report.html"  # in a run's directory, once it has completed
_ENDED = ("completed", "stopped", "failed")
_NOT_LIVE = "The state when this page was opened: open it again to see the present one."


def find_run_folder(home: LeadHome, run: str) -> Path | None:
    """Return the directory of a run that the lead started; None if there is none of this id."""
    found = [Path(job.folder) for job in iter_jobs(home) if job.run == run and job.budget_request is None]
    return found[0] if found and RunDir(found[0]).exists else None


def build_runs(home: LeadHome) -> Content:
    """Return all runs, the newest first."""
    jobs = list(iter_jobs(home))[::-1]
    rows = tuple(map(_describe_job, jobs))
    head = ("Run", "Name", "State", "Round", "Waits for", "Started")
    table = DataTable("Every run", head, rows, tuple(f"/runs/{job.run}" for job in jobs))
    damaged = (f"Warning: {path} is damaged and left out." for path in list_damaged_jobs(home))
    return Content("Runs", (_NOT_LIVE, *damaged), (table,))


def _describe_job(job: Job) -> tuple[str, ...]:
    run, blank = RunDir(Path(job.folder)), ("",) * 4
    if job.budget_request is not None:
        return job.run, "reservation of a sweep", *blank
    try:
        if not run.exists:
            return job.run, "its folder is gone", *blank
        status, started = get_run_status(run, query_server_status), run.info.started
    except FedhealthError as fault:
        return job.run, fault.problem, *blank
    return job.run, status.name, status.state, _describe_round(status), ", ".join(status.waiting_for), started


def build_run(folder: Path) -> Content:
    """Return the state of a run, of its hospitals, and its results.

    Raises:
        ConfigError: one of its files is damaged.

    """
    status, record = get_run_status(RunDir(folder), query_server_status), load_run_record(folder)
    tables = [DataTable("Run", (), tuple(_describe_facts(status, record))), _build_hospitals(status)]
    if record.comparison is not None and record.comparison.sites:
        tables.append(_build_gains(record.comparison.sites))
    has_report = is_plain_file(folder / REPORT_FILE)
    links = ((f"/runs/{status.run}/report", "The report of this run"),) if has_report else ()
    lines = () if status.state in _ENDED else (_NOT_LIVE,)
    return Content(f"Run {status.run}", lines, tuple(tables), links)


def _describe_facts(status: RunStatus, record: RunRecord) -> Iterator[tuple[str, str]]:
    yield "Name", status.name
    yield "State", status.state if status.state in _ENDED else f"{status.state}, {status.summary.phase}"
    yield "Round", _describe_round(status)
    yield "Last event", format_time(status.summary.at) if status.summary.at else "none"
    yield "Waits for", ", ".join(status.waiting_for) or "nobody"
    yield from ((name, text) for name, text in (("Problem", status.error), ("What to do", status.advice)) if text)
    yield "Privacy", format_promise(get_promised_guarantee(record))
    yield "Versions", record.info.versions or "not known"
    if (result := record.test_result) is not None:
        yield "Test AUROC of all hospitals together", _format_estimate(result.metrics[PRIMARY_METRIC])


def _describe_round(status: RunStatus) -> str:
    summary = status.summary
    return f"{summary.completed} of {summary.rounds} completed" if summary.rounds else "none yet"


def _build_hospitals(status: RunStatus) -> DataTable:
    rows = tuple(
        (
            name,
            site.state,
            f"{format_time(site.answered)}, took {site.seconds:.1f} s" if site.answered else "never",
            f"{site.reason} {site.fix}".strip(),
        )
        for name, site in sorted(status.summary.sites.items())
    )
    return DataTable("Hospitals", ("Hospital", "State", "Last reply", "Why"), rows)


def _build_gains(sites: tuple[SiteGain, ...]) -> DataTable:
    caption = "What each hospital gains: AUROC on its own test patients [95 % interval]"
    rows = tuple(
        (each.site, *map(_format_estimate, (each.alone, each.shared, each.gain, each.tuned))) for each in sites
    )
    return DataTable(caption, ("Hospital", "Alone", "Shared model", "Gain", "Personal copy"), rows)


def _format_estimate(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "not known"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
