"""Expose metrics to Prometheus: as a text file for node_exporter's textfile collector, or over HTTP on loopback."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fedhealth.errors import ConfigError
from fedhealth.utils.atomic_io import write_atomic

LOOPBACK = "127.0.0.1"
Labels = Mapping[str, str]
log = logging.getLogger("fedhealth.monitor")


def make_gauge(name: str, help_text: str, values: Iterable[tuple[Labels, float]]) -> Iterable[Metric]:
    """Yield one gauge with a value for each set of labels; nothing if there are no values."""
    return _make_family(GaugeMetricFamily, name, help_text, list(values))


def make_counter(name: str, help_text: str, values: Iterable[tuple[Labels, float]]) -> Iterable[Metric]:
    """Yield one counter with a value for each set of labels; Prometheus appends `_total` to its name."""
    return _make_family(CounterMetricFamily, name, help_text, list(values))


def make_state_samples(states: Sequence[str], state: str, labels: Labels) -> Iterable[tuple[Labels, float]]:
    """Return a sample per state: 1 for the current state and 0 for the others."""
    return [({**labels, "state": each}, float(each == state)) for each in states]


def render_metrics(collector: Collector) -> bytes:
    """Return a collector's metrics in the text format of Prometheus."""
    return generate_latest(_make_registry(collector))


def write_metrics_file(path: Path, collector: Collector) -> None:
    """Write a collector's metrics atomically to a file that other users may read.

    A write error is logged: monitoring never stops the site. There is no fsync: after a crash the file is rewritten.
    """
    try:
        write_atomic(path, render_metrics(collector), 0o644, durable=False)
    except OSError as fault:
        log.warning("the metrics file %s could not be written: %s", path, fault)


def serve_metrics(collector: Collector, port: int, stop: threading.Event) -> None:
    """Serve metrics on 127.0.0.1 until `stop` is set.

    Raises:
        ConfigError: the port is in use.

    """
    try:
        server, thread = start_http_server(port, LOOPBACK, _make_registry(collector))
    except OSError as fault:
        raise ConfigError(
            f"The address {LOOPBACK}:{port} cannot be used ({fault.strerror}).", "Choose another --port."
        ) from fault
    try:
        stop.wait()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _make_registry(collector: Collector) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry


def _make_family(
    kind: type[GaugeMetricFamily] | type[CounterMetricFamily],
    name: str,
    help_text: str,
    values: list[tuple[Labels, float]],
) -> Iterable[Metric]:
    if not values:
        return ()
    family = kind(name, help_text, labels=list(values[0][0]))
    for labels, value in values:
        family.add_metric(list(labels.values()), value)
    return (family,)
