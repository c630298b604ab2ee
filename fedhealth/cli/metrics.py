"""Implementation of `fedhealth site metrics` and `fedhealth lead metrics`: print the metrics once, or serve them."""

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
    """Print or serve a hospital's metrics."""
    from fedhealth.monitor.site_metrics import SiteMetrics
    from fedhealth.site.home import SiteHome

    _print_or_serve(SiteMetrics(SiteHome.find(home)), port)


def run_lead_metrics(home: Path | None, port: int | None) -> None:
    """Print or serve the metrics of the lead's runs that are running or ended within a day."""
    from fedhealth.lead.home import LeadHome
    from fedhealth.monitor.run_metrics import RunMetrics, find_current_runs

    place = LeadHome.find(home)
    _print_or_serve(RunMetrics(lambda: find_current_runs(place)), port)


def _print_or_serve(collector: Collector, port: int | None) -> None:
    """Print once, or serve until SIGTERM or Ctrl-C."""
    from fedhealth.monitor.exposition import LOOPBACK, render_metrics, serve_metrics

    if port is None:
        sys.stdout.write(render_metrics(collector).decode())
        return
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    Console(highlight=False).print(f"http://{LOOPBACK}:{port}/metrics", soft_wrap=True)
    serve_metrics(collector, port, stop)
