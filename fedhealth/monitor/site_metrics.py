"""A hospital's metrics: whether it is up, its replies, its privacy budget. Read from its files; ledgers are verified.

The daemon writes them, so nothing here may import torch: epsilon is read as it was computed when it was booked.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from fedhealth.errors import ConfigError
from fedhealth.monitor.exposition import Labels, make_counter, make_gauge, make_state_samples, write_metrics_file
from fedhealth.privacy.accounting.ledger_folder import LEDGER_DIR, get_spending_summary_path
from fedhealth.protocol.messages import TRAIN
from fedhealth.runs.run_dir import METRICS_FILE
from fedhealth.site.daemon_state import CONNECTED_STATES, DaemonState
from fedhealth.site.home import SiteHome
from fedhealth.site.policy import load_policy
from fedhealth.utils.atomic_io import read_json
from fedhealth.utils.hash_chain import BrokenChainError, load_chain

METRICS_VARIABLE = "FEDHEALTH_METRICS"  # file for Prometheus, if not in the site's folder
STATES = ("starting", "connected", "working", "paused", "offline", "stopped")
_PRIVACY_GAUGES = (
    (
        "epsilon_spent",
        "Epsilon that all runs on a data set spent together, for each patient; an upper bound. It holds at the delta "
        "of fedhealth_site_epsilon_delta, with the noise multipliers of fedhealth_site_noise_multiplier or more.",
        "epsilon",
    ),
    ("epsilon_delta", "Delta at which fedhealth_site_epsilon_spent is measured, for each patient.", "delta"),
    ("noise_multiplier", "Smallest noise multiplier of any private round on a data set.", "noise_multiplier"),
)
_LIMIT_HELP = (
    "Limit of fedhealth_site_epsilon_spent for the life of a data set, for each patient, at the delta of "
    "fedhealth_site_epsilon_delta."
)

log = logging.getLogger("fedhealth.monitor")


class AuditCounter:
    """Counts the events of the audit log; reads only new lines. `site audit verify` verifies the hash chain."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reset()

    def _reset(self) -> None:
        self._position, self.round = 0, 0
        self.events: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.sent = self.trained = 0

    def update(self) -> AuditCounter:
        """Count the lines that were appended since the last call."""
        if not self._path.is_file():
            return self
        if self._path.stat().st_size < self._position:
            self._reset()
        with self._path.open("rb") as file:
            file.seek(self._position)
            whole, end, _ = file.read().rpartition(b"\n")
        self._position += len(whole) + len(end)
        for line in whole.splitlines():
            with suppress(ValueError, KeyError, TypeError):
                self._count_entry(json.loads(line)["entry"])
        return self

    def _count_entry(self, entry: dict[str, Any]) -> None:
        event, kind = str(entry["event"]), entry.get("kind")
        self.events[event] += 1
        if event == "left":
            self.sent += int(entry["bytes"])
            self.trained += kind == TRAIN
            self.round = int(entry["round"])
        elif event in ("failed", "declined"):
            self.errors[str(entry["reason"])] += 1
        elif event == "refused":
            self.errors["refused"] += 1


class SiteMetrics(Collector):
    """Collects the metrics of one hospital.

    Args:
        home: the hospital's folder.

    """

    def __init__(self, home: SiteHome) -> None:
        self._home, self._state, self._audit = home, DaemonState(home), AuditCounter(home.audit)
        self._read: dict[Path, tuple[tuple[int, int], _LedgerSummary]] = {}

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        status, audit = self._state.status, self._audit.update()
        site: Labels = {"site": str(status.get("site", self._home.path.name))}
        state = str(status["state"])
        contact = time.time() if state in CONNECTED_STATES else float(status.get("contact", 0.0))
        yield from make_gauge("fedhealth_site_up", "1 while the site daemon runs.", [(site, float(state != "stopped"))])
        yield from make_gauge(
            "fedhealth_site_state",
            "1 for the current state of the site.",
            list(make_state_samples(STATES, state, site)),
        )
        for name, what, value in (
            ("contact_timestamp_seconds", "Time of the last contact with the lead.", contact),
            ("written_timestamp_seconds", "Time at which these metrics were written.", time.time()),
            ("round", "Round of the last reply.", float(audit.round)),
            ("task_seconds", "Duration of the last task.", float(status.get("task_seconds", 0.0))),
        ):
            yield from make_gauge(f"fedhealth_site_{name}", what, [(site, value)])
        for name, what, value in (
            ("rounds", "Training rounds with a reply.", float(audit.trained)),
            ("sent_bytes", "Bytes that left through the egress gate.", float(audit.sent)),
            ("declined", "Messages declined.", float(audit.events["declined"])),
        ):
            yield from make_counter(f"fedhealth_site_{name}", what, [(site, value)])
        kinds = [({**site, "kind": kind}, float(count)) for kind, count in sorted(audit.errors.items())]
        yield from make_counter(
            "fedhealth_site_errors", "Tasks that failed, or were blocked or declined, by kind.", kinds
        )
        yield from self._collect_budgets(site)

    def _collect_budgets(self, site: Labels) -> Iterator[Metric]:
        found = [({**site, "dataset": path.stem}, self._get_ledger_summary(path)) for path in self._list_ledgers()]
        for name, what, attribute in _PRIVACY_GAUGES:
            known = [(labels, getattr(each, attribute)) for labels, each in found]
            yield from make_gauge(f"fedhealth_site_{name}", what, [pair for pair in known if pair[1] is not None])
        yield from make_counter(
            "fedhealth_site_failed_bookings",
            "Private rounds that failed; each is spent, and they are limited for the life of a data set.",
            [(labels, each.failed) for labels, each in found],
        )
        yield from make_counter(
            "fedhealth_site_budget_declined",
            "Rounds declined because the budget did not suffice.",
            [(labels, each.declined) for labels, each in found],
        )
        yield from make_gauge(
            "fedhealth_site_ledger_broken",
            "1 where a ledger was edited, cut or damaged.",
            [(labels, float(each.broken)) for labels, each in found],
        )
        with suppress(ConfigError):  # `fedhealth site check` reports errors in site.yaml
            limit = load_policy(self._home).limits.lifetime_epsilon
            limits = [(labels, limit) for labels, _ in found]
            yield from make_gauge("fedhealth_site_epsilon_limit", _LIMIT_HELP, limits)

    def _list_ledgers(self) -> list[Path]:
        return sorted((self._home.state / LEDGER_DIR).glob("*.jsonl"))

    def _get_ledger_summary(self, path: Path) -> _LedgerSummary:
        """Return the summary of a ledger; it is read again when the file has changed."""
        stat = path.stat()
        stamp = stat.st_mtime_ns, stat.st_size
        if path not in self._read or self._read[path][0] != stamp:
            self._read[path] = stamp, _summarize_ledger(path)
        return self._read[path][1]


@dataclass(frozen=True)
class _LedgerSummary:
    """The metrics of one ledger."""

    epsilon: float | None
    delta: float | None
    noise_multiplier: float | None = None
    declined: int = 0
    failed: int = 0
    broken: bool = False


def _summarize_ledger(path: Path) -> _LedgerSummary:
    spent = _read_spending_summary(path)
    epsilon, delta = spent.get("epsilon"), spent.get("delta")
    try:
        entries, _ = load_chain(path)
    except BrokenChainError:
        return _LedgerSummary(epsilon, delta, broken=True)
    kinds = Counter(entry["kind"] for entry in entries)
    noise = [entry["event"]["noise_multiplier"] for entry in entries if entry["kind"] == "book"]
    return _LedgerSummary(epsilon, delta, min(noise, default=None), kinds["decline"], kinds["fail"])


def _read_spending_summary(ledger: Path) -> dict[str, Any]:
    """Return what was spent; nothing until the next booking if a power cut left half a file."""
    try:
        return dict(read_json(get_spending_summary_path(ledger)) or {})
    except ValueError:
        return {}


class SiteMetricsFile:
    """Writes a site's metrics to the file that FEDHEALTH_METRICS names, by default in the site's folder.

    Args:
        home: the hospital's folder.

    """

    def __init__(self, home: SiteHome) -> None:
        self._default, self._metrics, self._lock = (
            home.daemon_folder / METRICS_FILE,
            SiteMetrics(home),
            threading.Lock(),
        )

    def write(self) -> None:
        """Write the metrics; an error is logged and does not stop the site."""
        with self._lock:
            try:
                write_metrics_file(Path(os.environ.get(METRICS_VARIABLE) or self._default), self._metrics)
            except Exception:
                log.warning("the metrics could not be written", exc_info=True)
