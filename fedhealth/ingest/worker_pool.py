"""Worker processes that a bad file can hang, crash or fill up without harm to anything but itself.

`concurrent.futures` gives up a whole pool when one worker dies. Here the task that did it is set aside, the worker
replaced, and everything else goes on.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from operator import length_hint
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

from fedhealth.errors import FedhealthError

Task = TypeVar("Task")
Answer = TypeVar("Answer")

_PRELOADED = ["fedhealth.ingest.pixel_writer"]
_PAUSE = 0.005  # seconds
_LEAST_AHEAD = 2  # tasks: one in hand and the next


@dataclass(frozen=True)
class Failed:
    """A task that has no answer, and why."""

    reason: str


@dataclass
class _Worker(Generic[Task]):
    process: Any
    connection: Connection
    given: deque[Task] = field(default_factory=deque)
    since: float = 0.0  # when it began with the first of those given


class Pool(Generic[Task, Answer]):
    """Processes that answer tasks, each within limits of time and memory.

    Args:
        work: what is done with a task; importable, and so are tasks and answers.
        workers: how many processes.
        seconds: that one task may take.
        megabytes: of memory that a worker may take beside what it has when it begins.
        ahead: how many tasks a worker is given at a time, so that it need not wait for the next; 1 for large tasks,
            for both ends of a full pipe would wait for each other.

    """

    def __init__(
        self, work: Callable[[Task], Answer], workers: int, seconds: float, megabytes: int, ahead: int = 1
    ) -> None:
        self._work, self._seconds, self._megabytes, self._ahead = work, seconds, megabytes, ahead
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOADED)
        self._poll = select.poll()
        self._workers: list[_Worker[Task]] = [self._started() for _ in range(workers)]
        for worker in self._workers:
            _await(worker)

    def __enter__(self) -> Pool[Task, Answer]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            _end(worker)

    def answers(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Answer | Failed]]:
        """Yield every task with its answer, as they come."""
        again: deque[Task] = deque()
        waiting = iter(tasks)
        while self._give(again, waiting):
            for worker in self._ready():
                yield self._take(worker, again)
            for worker in self._late():
                yield self._replaced(worker, again, f"takes longer than {self._seconds:g} s")

    def _give(self, again: deque[Task], waiting: Iterator[Task]) -> bool:
        """Hand out tasks, fewer at a time towards the end; false when there are none left, given or not."""
        left = length_hint(waiting, self._ahead * len(self._workers))
        ahead = min(self._ahead, max(_LEAST_AHEAD, left // len(self._workers)))
        for worker in self._workers:
            while len(worker.given) < ahead:
                task = again.popleft() if again else next(waiting, None)
                if task is None:
                    break
                worker.since = worker.since if worker.given else time.monotonic()
                worker.given.append(task)
                try:
                    worker.connection.send(task)
                except OSError:  # it is dead; taking its answer will tell
                    break
        return any(worker.given for worker in self._workers)

    def _ready(self) -> list[_Worker[Task]]:
        """Wait for answers; return whose there are."""
        busy = [worker for worker in self._workers if worker.given]
        found = self._poll.poll(0)
        if not found:
            if min(len(worker.given) for worker in busy) > self._ahead // 2:
                time.sleep(_PAUSE)  # let some come together: this process takes turns with the workers
            soonest = min(worker.since for worker in busy) + self._seconds - time.monotonic()
            found = self._poll.poll(1000 * max(0.01, soonest))
        ready = {descriptor for descriptor, _ in found}
        answering = [worker for worker in self._workers if worker.connection.fileno() in ready]
        for worker in answering:
            if not worker.given:  # it has nothing to say, so it died
                self._renew(worker)
        return [worker for worker in answering if worker.given]

    def _late(self) -> list[_Worker[Task]]:
        now = time.monotonic()
        return [worker for worker in self._workers if worker.given and now - worker.since > self._seconds]

    def _take(self, worker: _Worker[Task], again: deque[Task]) -> tuple[Task, Answer | Failed]:
        try:
            answer: Answer | Failed = worker.connection.recv()
        except (EOFError, OSError):
            return self._replaced(worker, again, "makes the decoder crash")
        worker.since = time.monotonic()
        return worker.given.popleft(), answer

    def _replaced(self, worker: _Worker[Task], again: deque[Task], reason: str) -> tuple[Task, Failed]:
        """Blame the task in hand, keep the others for the next worker."""
        blamed = worker.given.popleft()
        again.extend(worker.given)
        self._renew(worker)
        return blamed, Failed(reason)

    def _renew(self, worker: _Worker[Task]) -> None:
        self._poll.unregister(worker.connection)
        _end(worker)
        place = self._workers.index(worker)
        self._workers[place] = self._started()
        _await(self._workers[place])

    def _started(self) -> _Worker[Task]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._work, self._megabytes), daemon=True)
        process.start()
        theirs.close()
        self._poll.register(ours, select.POLLIN)
        return _Worker(process, ours)


def _await(worker: _Worker[Any]) -> None:
    """Wait until a worker is ready: what it takes to start counts for no task."""
    try:
        worker.connection.recv()
    except EOFError as fault:
        raise FedhealthError(
            "A worker process ended as it started.", "See whether memory or processes ran out."
        ) from fault


def _end(worker: _Worker[Any]) -> None:
    worker.process.kill()
    worker.process.join()
    worker.connection.close()


def _serve(connection: Connection, work: Callable[[Any], Any], megabytes: int) -> None:
    """Answer tasks until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)  # decoders print what they do not understand
    _limit(megabytes)
    connection.send("ready")
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            answer = work(task)
        except MemoryError:
            answer = Failed(f"needs more than {megabytes} MB of memory")
        connection.send(answer)


def _limit(megabytes: int) -> None:
    """Bound the address space: an allocation beyond it fails, in Python as in the decoders."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    bound = pages * os.sysconf("SC_PAGE_SIZE") + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
