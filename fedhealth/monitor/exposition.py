"""Hand numbers to Prometheus: as a text file for node_exporter's textfile collector, or over HTTP on loopback."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fedhealth.errors import ConfigError

LOOPBACK = "127.0.0.1"
Labels = Mapping[str, str]
log = logging.getLogger("fedhealth.monitor")


def gauge(name: str, what: str, values: Iterable[tuple[Labels, float]]) -> Iterable[Metric]:
    """Yield one gauge with a value for each set of labels; nothing where there is none."""
    return _family(GaugeMetricFamily, name, what, list(values))


def counter(name: str, what: str, values: Iterable[tuple[Labels, float]]) -> Iterable[Metric]:
    """Yield one counter, likewise; Prometheus shows its name with `_total` behind it."""
    return _family(CounterMetricFamily, name, what, list(values))


def one_of(states: Sequence[str], state: str, labels: Labels) -> Iterable[tuple[Labels, float]]:
    """Return 1 for the present state and 0 for the others."""
    return [({**labels, "state": each}, float(each == state)) for each in states]


def text_of(collector: Collector) -> bytes:
    """Return what a collector says, as Prometheus reads it."""
    return generate_latest(_registry(collector))


def write(path: Path, collector: Collector) -> None:
    """Write what a collector says into a file that others may read, whole or not at all.

    A fault is logged: monitoring stops nothing. Not synced to the disk: after a crash it is written anew.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.draft")  # not *.prom: nobody reads it
    try:
        draft.write_bytes(text_of(collector))
        draft.chmod(0o644)
        draft.replace(path)
    except OSError as fault:
        log.warning("%s could not be written: %s", path, fault)
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def serve(collector: Collector, port: int, stop: threading.Event) -> None:
    """Answer on 127.0.0.1 until told to stop.

    Raises:
        ConfigError: the port is taken.

    """
    try:
        server, thread = start_http_server(port, LOOPBACK, _registry(collector))
    except OSError as fault:
        raise ConfigError(f"{LOOPBACK}:{port} cannot be used ({fault.strerror}).", "Choose another --port.") from fault
    try:
        stop.wait()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _registry(collector: Collector) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry


def _family(
    kind: type[GaugeMetricFamily] | type[CounterMetricFamily], name: str, what: str, values: list[tuple[Labels, float]]
) -> Iterable[Metric]:
    if not values:
        return ()
    family = kind(name, what, labels=list(values[0][0]))
    for labels, value in values:
        family.add_metric(list(labels.values()), value)
    return (family,)
