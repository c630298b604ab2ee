"""The lead's metrics: status and traffic of each run, and when each hospital last replied."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from fedhealth.lead.connect_control import query_server_status
from fedhealth.lead.home import LeadHome
from fedhealth.lead.job_store import iter_jobs
from fedhealth.monitor.exposition import Labels, make_counter, make_gauge, make_state_samples, write_metrics_file
from fedhealth.runs.event_summary import EventSummary
from fedhealth.runs.run_dir import METRICS_FILE, RunDir
from fedhealth.runs.run_status import RUN_STATES, RunStatus, ServerQuery, get_run_status
from fedhealth.utils.periodic import run_periodically

_POLL_SECONDS = 1.0
_RETENTION_SECONDS = 24 * 3600.0  # after a run's end
_GAUGES: tuple[tuple[str, str, Callable[[EventSummary], float]], ...] = (
    ("round", "Latest round that has started.", lambda summary: summary.round),
    ("rounds", "Rounds planned.", lambda summary: summary.rounds),
    ("rounds_completed", "Rounds completed.", lambda summary: summary.completed),
    ("round_seconds", "Duration of the last completed round.", lambda summary: summary.seconds),
    ("event_timestamp_seconds", "Time of the latest event.", lambda summary: summary.at),
)


class RunMetrics(Collector):
    """Collects the metrics of runs; reads only new events of each run.

    Args:
        runs: returns the runs to report.
        server: queried for the status of runs in hospitals, see `fedhealth.runs.run_status`.

    """

    def __init__(self, runs: Callable[[], Iterable[RunDir]], server: ServerQuery = query_server_status) -> None:
        self._runs, self._server = runs, server
        self._read: dict[Path, tuple[EventSummary, int]] = {}

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of every run."""
        found = [self._read_status(run) for run in self._runs()]
        of_run = [({"run": each.run}, each) for each in found]
        yield from make_gauge(
            "fedhealth_run_state",
            "1 for the state that the run is in.",
            [
                pair
                for each in found
                for pair in make_state_samples(RUN_STATES, each.state, {"run": each.run, "name": each.name})
            ],
        )
        for name, what, value in _GAUGES:
            yield from make_gauge(
                f"fedhealth_run_{name}", what, [(labels, value(each.summary)) for labels, each in of_run]
            )
        yield from make_gauge(
            "fedhealth_run_waiting_for",
            "Number of hospitals that have yet to reply or to connect.",
            [(labels, len(each.waiting_for)) for labels, each in of_run],
        )
        yield from make_gauge(
            "fedhealth_run_declined",
            "Number of hospitals that decline the run.",
            [(labels, _count_declined(each)) for labels, each in of_run],
        )
        yield from _collect_site_metrics([(labels, each.summary) for labels, each in of_run])

    def _read_status(self, run: RunDir) -> RunStatus:
        summary, position = self._read.get(run.path, (EventSummary(), 0))
        events, position = run.read_events(position)
        self._read[run.path] = summary.add_events(events), position
        return get_run_status(run, self._server, summary)


def _count_declined(found: RunStatus) -> int:
    return sum(site.state == "declined" for site in found.summary.sites.values())


def _collect_site_metrics(runs: list[tuple[Labels, EventSummary]]) -> Iterator[Metric]:
    sites = [({**labels, "site": name}, site) for labels, summary in runs for name, site in summary.sites.items()]
    traffic = [
        ({**labels, "direction": direction}, float(size))
        for labels, site in sites
        for direction, size in (("to", site.sent), ("from", site.received))
    ]
    yield from make_counter("fedhealth_run_bytes", "Bytes to and from each hospital.", traffic)
    yield from make_counter(
        "fedhealth_run_site_errors",
        "How often a hospital was dropped from a round, by kind of error.",
        [({**labels, "kind": kind}, count) for labels, site in sites for kind, count in sorted(site.errors.items())],
    )
    yield from make_gauge(
        "fedhealth_run_site_answered_timestamp_seconds",
        "Time of a hospital's latest reply.",
        [(labels, site.answered) for labels, site in sites if site.answered],
    )


def find_current_runs(home: LeadHome) -> Iterator[RunDir]:
    """Yield the lead's runs in hospitals that are in progress or ended within a day."""
    for job in iter_jobs(home):
        run = RunDir(Path(job.folder))
        if run.exists and not _is_old(run.info.finished):
            yield run


def _is_old(finished: str) -> bool:
    return bool(finished) and time.time() - datetime.fromisoformat(finished).timestamp() > _RETENTION_SECONDS


@contextmanager
def monitor_run(run: RunDir, at_server: bool = False) -> Iterator[None]:
    """Keep the run's metrics.prom up to date while the block runs; write it once more at its end.

    Args:
        run: the run.
        at_server: whether the block is the server app, which continues when the launcher has died.

    """
    is_running_at_server, position = at_server, -1
    collector = RunMetrics(lambda: [run], lambda run: "running" if is_running_at_server else "")

    def update() -> None:
        nonlocal position
        before, position = position, run.read_events(max(position, 0))[1]
        if before != position:
            write_metrics_file(run.path / METRICS_FILE, collector)

    try:
        with run_periodically(_POLL_SECONDS, update, "metrics"):
            yield
    finally:
        is_running_at_server = False
        write_metrics_file(run.path / METRICS_FILE, collector)
