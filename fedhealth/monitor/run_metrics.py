"""The lead's numbers: how each run stands, what it cost, which hospital answered when."""

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
from fedhealth.lead.job_store import jobs
from fedhealth.monitor.exposition import Labels, counter, gauge, one_of, write
from fedhealth.runs.event_summary import Account
from fedhealth.runs.run_dir import METRICS, RunDir
from fedhealth.runs.run_status import STATES, Server, Standing, standing
from fedhealth.utils.periodic import regularly

_LOOK_SECONDS = 1.0
_SHOWN_SECONDS = 24 * 3600.0  # after a run's end
_NUMBERS: tuple[tuple[str, str, Callable[[Account], float]], ...] = (
    ("round", "Round begun last.", lambda account: account.round),
    ("rounds", "Rounds planned.", lambda account: account.rounds),
    ("rounds_completed", "Rounds completed.", lambda account: account.completed),
    ("round_seconds", "Duration of the last completed round.", lambda account: account.seconds),
    ("event_timestamp_seconds", "When something happened last.", lambda account: account.at),
)


class RunMetrics(Collector):
    """Reads runs whenever it is asked; of their events only what is new.

    Args:
        runs: which.
        server: asked about runs in the hospitals, see `fedhealth.runs.run_status`.

    """

    def __init__(self, runs: Callable[[], Iterable[RunDir]], server: Server = query_server_status) -> None:
        self._runs, self._server = runs, server
        self._read: dict[Path, tuple[Account, int]] = {}

    def collect(self) -> Iterator[Metric]:
        """Yield every number of every run."""
        found = [self._standing(run) for run in self._runs()]
        of_run = [({"run": each.run}, each) for each in found]
        yield from gauge(
            "fedhealth_run_state",
            "1 for the state that the run is in.",
            [pair for each in found for pair in one_of(STATES, each.state, {"run": each.run, "name": each.name})],
        )
        for name, what, value in _NUMBERS:
            yield from gauge(f"fedhealth_run_{name}", what, [(labels, value(each.account)) for labels, each in of_run])
        yield from gauge(
            "fedhealth_run_waiting_for",
            "How many hospitals have to answer or to connect.",
            [(labels, len(each.waiting_for)) for labels, each in of_run],
        )
        yield from gauge(
            "fedhealth_run_declined",
            "How many hospitals decline the run.",
            [(labels, _declined(each)) for labels, each in of_run],
        )
        yield from _of_sites([(labels, each.account) for labels, each in of_run])

    def _standing(self, run: RunDir) -> Standing:
        account, position = self._read.get(run.path, (Account(), 0))
        events, position = run.events(position)
        self._read[run.path] = account.take(events), position
        return standing(run, self._server, account)


def _declined(found: Standing) -> int:
    return sum(site.state == "declined" for site in found.account.sites.values())


def _of_sites(runs: list[tuple[Labels, Account]]) -> Iterator[Metric]:
    sites = [({**labels, "site": name}, site) for labels, account in runs for name, site in account.sites.items()]
    traffic = [
        ({**labels, "direction": direction}, float(size))
        for labels, site in sites
        for direction, size in (("to", site.sent), ("from", site.received))
    ]
    yield from counter("fedhealth_run_bytes", "Bytes to and from each hospital.", traffic)
    yield from counter(
        "fedhealth_run_site_errors",
        "How often a hospital was left out of a round, by kind.",
        [({**labels, "kind": kind}, count) for labels, site in sites for kind, count in sorted(site.errors.items())],
    )
    yield from gauge(
        "fedhealth_run_site_answered_timestamp_seconds",
        "When a hospital answered last.",
        [(labels, site.answered) for labels, site in sites if site.answered],
    )


def runs_of(home: LeadHome) -> Iterator[RunDir]:
    """Yield the lead's runs in the hospitals that go on, or ended within a day."""
    for job in jobs(home):
        run = RunDir(Path(job.folder))
        about = run.about
        if about and not _is_old(str(about.get("finished") or "")):
            yield run


def _is_old(finished: str) -> bool:
    return bool(finished) and time.time() - datetime.fromisoformat(finished).timestamp() > _SHOWN_SECONDS


@contextmanager
def told(run: RunDir, at_server: bool = False) -> Iterator[None]:
    """Keep the run's metrics.prom up to date while the block runs, and once more at its end.

    Args:
        run: the run.
        at_server: whether the block is the server's part, which goes on when nobody holds the run.

    """
    goes_on, position = at_server, -1
    collector = RunMetrics(lambda: [run], lambda run: "running" if goes_on else "")

    def follow() -> None:
        nonlocal position
        before, position = position, run.events(max(position, 0))[1]
        if before != position:
            write(run.path / METRICS, collector)

    try:
        with regularly(_LOOK_SECONDS, follow, "metrics"):
            yield
    finally:
        goes_on = False
        write(run.path / METRICS, collector)
