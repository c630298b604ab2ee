"""What `fedhealth site metrics` and `fedhealth lead metrics` do: the same numbers, printed once or served."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from prometheus_client.registry import Collector


def run_site_metrics(home: Path | None, port: int | None) -> None:
    """Show a hospital's numbers."""
    from fedhealth.monitor.site_metrics import SiteMetrics
    from fedhealth.site.home import SiteHome

    _show(SiteMetrics(SiteHome.find(home)), port)


def run_lead_metrics(home: Path | None, port: int | None) -> None:
    """Show the numbers of the lead's runs that go on, or ended within a day."""
    from fedhealth.lead.home import LeadHome
    from fedhealth.monitor.run_metrics import RunMetrics, runs_of

    place = LeadHome.find(home)
    _show(RunMetrics(lambda: runs_of(place)), port)


def _show(collector: Collector, port: int | None) -> None:
    """Print once, or serve until SIGTERM or Ctrl-C."""
    from fedhealth.monitor.exposition import LOOPBACK, serve, text_of

    if port is None:
        sys.stdout.write(text_of(collector).decode())
        return
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    Console(highlight=False).print(f"http://{LOOPBACK}:{port}/metrics", soft_wrap=True)
    serve(collector, port, stop)
