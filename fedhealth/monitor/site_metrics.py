"""A hospital's numbers: is it up, what did it answer, what is spent. From its own files; ledger chains are checked.

The runner writes them, so nothing here may load torch: what is spent was worked out by who booked it.
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
from fedhealth.monitor.exposition import Labels, counter, gauge, one_of, write
from fedhealth.privacy.accounting.ledger_folder import FOLDER, spent_path
from fedhealth.protocol.messages import TRAIN
from fedhealth.runs.run_dir import METRICS
from fedhealth.site.daemon_state import IN_CONTACT, SiteState
from fedhealth.site.home import SiteHome
from fedhealth.site.policy import load_policy
from fedhealth.utils.atomic_io import read_json
from fedhealth.utils.hash_chain import BrokenChainError, recover

METRICS_VARIABLE = "FEDHEALTH_METRICS"  # the file for Prometheus, where it is not to lie in the site's folder
STATES = ("starting", "connected", "working", "paused", "offline", "stopped")

log = logging.getLogger("fedhealth.monitor")


class AuditCount:
    """Counts what the audit log says; reads only what is new. Whether its chain is whole, `site audit verify` says."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin()

    def _begin(self) -> None:
        self._position, self.round = 0, 0
        self.events: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.sent = self.trained = 0

    def read(self) -> AuditCount:
        """Count the lines that were written since."""
        if not self._path.is_file():
            return self
        if self._path.stat().st_size < self._position:
            self._begin()
        with self._path.open("rb") as file:
            file.seek(self._position)
            whole, end, _ = file.read().rpartition(b"\n")
        self._position += len(whole) + len(end)
        for line in whole.splitlines():
            with suppress(ValueError, KeyError, TypeError):
                self._take(json.loads(line)["entry"])
        return self

    def _take(self, entry: dict[str, Any]) -> None:
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
    """Reads a hospital's folder whenever it is asked.

    Args:
        home: the folder.

    """

    def __init__(self, home: SiteHome) -> None:
        self._home, self._state, self._audit = home, SiteState(home), AuditCount(home.audit)
        self._read: dict[Path, tuple[tuple[int, int], _Ledger]] = {}

    def collect(self) -> Iterator[Metric]:
        """Yield every number."""
        about, audit = self._state.about, self._audit.read()
        site: Labels = {"site": str(about.get("site", self._home.path.name))}
        state = str(about["state"])
        contact = time.time() if state in IN_CONTACT else float(about.get("contact", 0.0))
        yield from gauge("fedhealth_site_up", "1 while the site's runner runs.", [(site, float(state != "stopped"))])
        yield from gauge(
            "fedhealth_site_state", "1 for the state that the site is in.", list(one_of(STATES, state, site))
        )
        for name, what, value in (
            ("contact_timestamp_seconds", "When the lead was reached last.", contact),
            ("written_timestamp_seconds", "When these numbers were written.", time.time()),
            ("round", "Round of the last answer.", float(audit.round)),
            ("task_seconds", "Duration of the last task.", float(about.get("task_seconds", 0.0))),
        ):
            yield from gauge(f"fedhealth_site_{name}", what, [(site, value)])
        for name, what, value in (
            ("rounds", "Training rounds answered.", float(audit.trained)),
            ("sent_bytes", "Bytes that left through the gate.", float(audit.sent)),
            ("declined", "Messages declined.", float(audit.events["declined"])),
        ):
            yield from counter(f"fedhealth_site_{name}", what, [(site, value)])
        kinds = [({**site, "kind": kind}, float(count)) for kind, count in sorted(audit.errors.items())]
        yield from counter("fedhealth_site_errors", "Tasks that failed, were refused or declined, by kind.", kinds)
        yield from self._budgets(site)

    def _budgets(self, site: Labels) -> Iterator[Metric]:
        found = [({**site, "dataset": path.stem}, self._ledger(path)) for path in self._ledgers()]
        spent = [(labels, each.epsilon) for labels, each in found if each.epsilon is not None]
        yield from gauge("fedhealth_site_epsilon_spent", "Of all runs on a data set together; an upper bound.", spent)
        yield from counter(
            "fedhealth_site_budget_declined",
            "Rounds declined since the budget did not last.",
            [(labels, each.declined) for labels, each in found],
        )
        yield from gauge(
            "fedhealth_site_ledger_broken",
            "1 where a ledger was edited, cut or damaged.",
            [(labels, float(each.broken)) for labels, each in found],
        )
        with suppress(ConfigError):  # a fault of site.yaml is told by `fedhealth site check`
            limit = load_policy(self._home).limits.life_epsilon
            limits = [(labels, limit) for labels, _ in found]
            yield from gauge("fedhealth_site_epsilon_limit", "The most that may be spent on a data set.", limits)

    def _ledgers(self) -> list[Path]:
        return sorted((self._home.state / FOLDER).glob("*.jsonl"))

    def _ledger(self, path: Path) -> _Ledger:
        """Return what a ledger says; read anew when it has changed."""
        about = path.stat()
        stamp = about.st_mtime_ns, about.st_size
        if path not in self._read or self._read[path][0] != stamp:
            self._read[path] = stamp, _ledger(path)
        return self._read[path][1]


@dataclass(frozen=True)
class _Ledger:
    """What is told of one ledger."""

    epsilon: float | None
    declined: int
    broken: bool


def _ledger(path: Path) -> _Ledger:
    spent = read_json(spent_path(path)) or {}
    try:
        entries, _ = recover(path)
    except BrokenChainError:
        return _Ledger(spent.get("epsilon"), 0, True)
    return _Ledger(spent.get("epsilon"), sum(entry["kind"] == "decline" for entry in entries), False)


class MetricsFile:
    """Write a site's metrics to the file that FEDHEALTH_METRICS names, or into the site's folder.

    Args:
        home: the hospital's folder.

    """

    def __init__(self, home: SiteHome) -> None:
        self._default, self._metrics, self._lock = home.run / METRICS, SiteMetrics(home), threading.Lock()

    def write(self) -> None:
        """Write them; a fault is logged and does not stop the site."""
        with self._lock:
            try:
                write(Path(os.environ.get(METRICS_VARIABLE) or self._default), self._metrics)
            except Exception:
                log.warning("the metrics could not be written", exc_info=True)
