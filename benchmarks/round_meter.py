"""What the rounds of a run in local hospitals take: wall time, processor time of all their processes, and bytes."""

from __future__ import annotations

import os
import statistics
import threading
from dataclasses import dataclass
from typing import Any

from benchmarks.peers_usage import list_descendants, read_cpu_seconds
from fedhealth.runs.run_dir import RunDir

_INTERVAL = 0.02  # seconds between two looks


@dataclass(frozen=True)
class RoundCost:
    """One round but the first, which loads data and builds models.

    Attributes:
        wall: median seconds.
        cpu: mean processor seconds of the processes of lead and sites.
        sent: bytes of the request to one site.
        received: bytes of its reply.
        sites: that answered.

    """

    wall: float
    cpu: float
    sent: int
    received: int
    sites: int


class RoundMeter:
    """Notes, while a run is going on, what all processes below this one have used when it completes a round.

    Args:
        run: whose events tell the rounds.

    """

    def __init__(self, run: RunDir) -> None:
        self._run, self._cpu = run, list[float]()
        self._stopping, self._thread = threading.Event(), threading.Thread(target=self._watch)

    def __enter__(self) -> RoundMeter:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        """Stop looking."""
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        at = 0
        while not self._stopping.wait(_INTERVAL):
            events, at = self._run.read_events(at)
            ended = sum(event["event"] == "round_completed" for event in events)
            if ended:  # of two rounds between two looks both end now
                self._cpu += [sum(read_cpu_seconds(pid, ended=True) for pid in list_descendants(os.getpid()))] * ended

    def summarize(self) -> RoundCost:
        """Return the cost of a round, from the whole run."""
        return summarize_rounds(self._run.read_events()[0], self._cpu)


def summarize_rounds(events: list[dict[str, Any]], cpu: list[float]) -> RoundCost:
    """Return the cost of a round from a run's events, and from what the processors had used when each was completed.

    Raises:
        ValueError: the run has one round only.

    """
    seconds = [event["seconds"] for event in events if event["event"] == "round_completed"]
    if len(seconds) < 2:
        raise ValueError(f"{len(seconds)} completed rounds; two are the fewest of which the first can be left out")
    answers = [event for event in events if event["event"] == "site_answered"]
    sent, received = (int(statistics.median(answer[key] for answer in answers)) for key in ("sent", "received"))
    spent = (cpu[-1] - cpu[0]) / (len(cpu) - 1)
    return RoundCost(statistics.median(seconds[1:]), spent, sent, received, len({each["site"] for each in answers}))
