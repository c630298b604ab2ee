"""A pool of worker processes that survives tasks that hang, crash or use too much memory.

`concurrent.futures` breaks the whole pool when one worker dies. Here only the task that caused it fails; the worker is
replaced and all other tasks continue.
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
from fedhealth.utils.warm_processes import start_server

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")

_PRELOADED = ["fedhealth.ingest.pixel_writer"]
_PAUSE = 0.005  # seconds
_LEAST_AHEAD = 2  # tasks: the current one and the next


@dataclass(frozen=True)
class FailedTask:
    """The result of a task that failed in its worker, with the reason."""

    reason: str


@dataclass
class _Worker(Generic[TaskT]):
    process: Any
    connection: Connection
    queue: deque[TaskT] = field(default_factory=deque)
    since: float = 0.0  # when it started the first task of the queue


class WorkerPool(Generic[TaskT, ResultT]):
    """Processes that run tasks, each with limits of time and memory.

    Args:
        work: the function that runs a task; it must be importable, like the types of tasks and results.
        workers: number of processes.
        seconds: time limit of one task.
        megabytes: memory that a worker may use in addition to what it has at its start.
        ahead: how many tasks are queued at a worker, so that it does not wait for the next one; 1 for large tasks,
            because both ends of a full pipe would wait for each other.

    """

    def __init__(
        self, work: Callable[[TaskT], ResultT], workers: int, seconds: float, megabytes: int, ahead: int = 1
    ) -> None:
        self._work, self._seconds, self._megabytes, self._ahead = work, seconds, megabytes, ahead
        self._context = multiprocessing.get_context("forkserver")
        start_server(_PRELOADED)
        self._poll = select.poll()
        self._workers: list[_Worker[TaskT]] = [self._start_worker() for _ in range(workers)]
        for worker in self._workers:
            _wait_until_ready(worker)

    def __enter__(self) -> WorkerPool[TaskT, ResultT]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            _kill_worker(worker)

    def iterate_results(self, tasks: Iterable[TaskT]) -> Iterator[tuple[TaskT, ResultT | FailedTask]]:
        """Yield every task with its result, in the order of completion."""
        retries: deque[TaskT] = deque()
        waiting = iter(tasks)
        while self._assign_tasks(retries, waiting):
            for worker in self._poll_workers():
                yield self._receive_result(worker, retries)
            for worker in self._find_overdue():
                yield self._fail_task(worker, retries, f"takes longer than {self._seconds:g} s")

    def _assign_tasks(self, retries: deque[TaskT], waiting: Iterator[TaskT]) -> bool:
        """Send tasks to workers, fewer at a time towards the end; return False when all tasks are done."""
        left = length_hint(waiting, self._ahead * len(self._workers))
        ahead = min(self._ahead, max(_LEAST_AHEAD, left // len(self._workers)))
        for worker in self._workers:
            while len(worker.queue) < ahead:
                task = retries.popleft() if retries else next(waiting, None)
                if task is None:
                    break
                worker.since = worker.since if worker.queue else time.monotonic()
                worker.queue.append(task)
                try:
                    worker.connection.send(task)
                except OSError:  # the worker died; receiving its result handles this
                    break
        return any(worker.queue for worker in self._workers)

    def _poll_workers(self) -> list[_Worker[TaskT]]:
        """Wait for results; return the workers that have one."""
        busy = [worker for worker in self._workers if worker.queue]
        found = self._poll.poll(0)
        if not found:
            if min(len(worker.queue) for worker in busy) > self._ahead // 2:
                time.sleep(_PAUSE)  # collect several results per turn: this process competes with the workers for CPU
            soonest = min(worker.since for worker in busy) + self._seconds - time.monotonic()
            found = self._poll.poll(1000 * max(0.01, soonest))
        ready = {descriptor for descriptor, _ in found}
        answering = [worker for worker in self._workers if worker.connection.fileno() in ready]
        for worker in answering:
            if not worker.queue:  # an idle worker sends nothing, so it died
                self._restart_worker(worker)
        return [worker for worker in answering if worker.queue]

    def _find_overdue(self) -> list[_Worker[TaskT]]:
        now = time.monotonic()
        return [worker for worker in self._workers if worker.queue and now - worker.since > self._seconds]

    def _receive_result(self, worker: _Worker[TaskT], retries: deque[TaskT]) -> tuple[TaskT, ResultT | FailedTask]:
        try:
            result: ResultT | FailedTask = worker.connection.recv()
        except (EOFError, OSError):
            return self._fail_task(worker, retries, "makes the decoder crash")
        worker.since = time.monotonic()
        return worker.queue.popleft(), result

    def _fail_task(self, worker: _Worker[TaskT], retries: deque[TaskT], reason: str) -> tuple[TaskT, FailedTask]:
        """Fail the worker's current task, reassign its other tasks, and restart the worker."""
        failed = worker.queue.popleft()
        retries.extend(worker.queue)
        self._restart_worker(worker)
        return failed, FailedTask(reason)

    def _restart_worker(self, worker: _Worker[TaskT]) -> None:
        self._poll.unregister(worker.connection)
        _kill_worker(worker)
        place = self._workers.index(worker)
        self._workers[place] = self._start_worker()
        _wait_until_ready(self._workers[place])

    def _start_worker(self) -> _Worker[TaskT]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_run_worker, args=(theirs, self._work, self._megabytes), daemon=True)
        process.start()
        theirs.close()
        self._poll.register(ours, select.POLLIN)
        return _Worker(process, ours)


def _wait_until_ready(worker: _Worker[Any]) -> None:
    """Wait until a worker is ready, so that its start does not count as time of a task."""
    try:
        worker.connection.recv()
    except EOFError as fault:
        raise FedhealthError(
            "A worker process ended during its start.", "Check the limits of memory and of processes."
        ) from fault


def _kill_worker(worker: _Worker[Any]) -> None:
    worker.process.kill()
    worker.process.join()
    worker.connection.close()


def _run_worker(connection: Connection, work: Callable[[Any], Any], megabytes: int) -> None:
    """Run tasks until the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # decoders print warnings about invalid content, and a hospital's own code may print reports
        os.dup2(silence, stream)
    _limit_memory(megabytes)
    connection.send("ready")
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            result = work(task)
        except MemoryError:
            result = FailedTask(f"needs more than {megabytes} MB of memory")
        connection.send(result)


def _limit_memory(megabytes: int) -> None:
    """Limit the address space: an allocation beyond it fails, in Python and in the decoders."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    bound = pages * os.sysconf("SC_PAGE_SIZE") + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
