"""Virtual hospitals in worker processes, which compute replies side by side and stay warm for the whole run.

Every hospital has one worker, because its data, model and caches stay in that process. Replies are passed on in the
order of the messages: sums of floating-point numbers are then the same with any number of workers.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from hydra.utils import get_object

from fedhealth.errors import FederationError, FedhealthError
from fedhealth.flower.compat import set_task_identity
from fedhealth.flower.in_process_grid import Request
from fedhealth.protocol.job import Job
from fedhealth.runs.run_dir import LOG_FILE, RunDir, log_to_file
from fedhealth.utils.warm_processes import copy_environment, get_warm_context

_END_SECONDS = 10.0


@dataclass
class _Worker:
    process: Any
    connection: Connection
    waiting: deque[Request] = field(default_factory=deque)
    is_busy: bool = False

    def send_next(self) -> None:
        """Send it the next message."""
        request, self.is_busy = self.waiting.popleft(), True
        try:
            self.connection.send(request)
        except OSError:  # it died; receiving its reply says so
            return


class SiteWorkers:
    """The worker processes of one run.

    Args:
        client_app: import path of the function that creates the hospital's application for a job.
        job: the run's job.
        workers: number of processes.

    """

    def __init__(self, client_app: str, job: Job, workers: int) -> None:
        context = get_warm_context()
        self._workers = [_start_worker(context, client_app, job, workers) for _ in range(workers)]

    def compute_replies(self, requests: Iterable[Request]) -> Iterator[Message]:
        """Compute replies side by side; yield them in the order of the messages.

        At most twice as many replies as workers are in memory at a time. Who has enough of them reads no further: then
        no other message is sent, and what workers still compute is discarded when it is ready.

        Raises:
            FederationError: a worker died.
            Exception: what the hospital's application raised.

        """
        order = []
        for message, context in requests:
            self._workers[context.node_id % len(self._workers)].waiting.append((message, context))
            order.append(message.metadata.message_id)
        asked, replies = set(order), dict[str, Message]()
        try:
            for message_id in order:
                while message_id not in replies:
                    self._send_messages(message_id, has_room=len(replies) < 2 * len(self._workers))
                    replies |= {key: reply for key, reply in self._receive_replies().items() if key in asked}
                yield replies.pop(message_id)
        finally:
            for worker in self._workers:
                worker.waiting.clear()

    def close(self) -> None:
        """End the processes; one that is still computing a reply is killed."""
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            if worker.is_busy:
                worker.process.kill()
            worker.process.join(_END_SECONDS)
            worker.process.kill()

    def _send_messages(self, first: str, *, has_room: bool) -> None:
        """Send every idle worker its next message; without room for more replies only the one that is yielded next."""
        for worker in self._workers:
            is_idle = worker.waiting and not worker.is_busy
            if is_idle and (has_room or worker.waiting[0][0].metadata.message_id == first):
                worker.send_next()

    def _receive_replies(self) -> dict[str, Message]:
        """Wait for at least one reply; return those that are ready, by the id of their message."""
        busy = {worker.connection: worker for worker in self._workers if worker.is_busy}
        replies = {}
        for connection in wait(list(busy)):
            reply = _receive_reply(busy[connection])  # type: ignore[index]
            replies[reply.metadata.reply_to_message_id] = reply
        return replies


@contextmanager
def start_site_workers(client_app: str, job: Job, workers: int) -> Iterator[SiteWorkers]:
    """Start a run's worker processes; end them with the block."""
    found = SiteWorkers(client_app, job, workers)
    try:
        yield found
    finally:
        found.close()


def _start_worker(context: Any, client_app: str, job: Job, workers: int) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=_run_worker, args=(theirs, client_app, job, workers, dict(os.environ)))
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _receive_reply(worker: _Worker) -> Message:
    try:
        result = worker.connection.recv()
    except (EOFError, OSError) as fault:
        worker.process.join(_END_SECONDS)
        raise FederationError(
            f"A worker process of the hospitals ended while it computed a reply (exit code {worker.process.exitcode}).",
            "If it ran out of memory, start a new run with runtime.workers=1. Else `fedhealth run resume=FOLDER` "
            "continues this one, with as many workers as before.",
        ) from fault
    worker.is_busy = False
    if isinstance(result, BaseException):
        raise result
    return result


def _run_worker(connection: Connection, client_app: str, job: Job, workers: int, environment: dict[str, str]) -> None:
    """Compute replies until the connection is closed."""
    from fedhealth.utils.free_memory import share_memory  # with torch, which the parent may not need yet

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    copy_environment(environment)
    share_memory(workers)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.captureWarnings(True)
    with log_to_file(RunDir(Path(job.folder)).path / LOG_FILE), suppress(EOFError, ConnectionError):
        app, contexts = get_object(client_app)(job), dict[int, Context]()
        while True:
            message, context = connection.recv()
            set_task_identity(context.run_id, 0)
            connection.send(_compute_reply(app, message, contexts.setdefault(context.node_id, context)))


def _compute_reply(app: ClientApp, message: Message, context: Context) -> Message | BaseException:
    try:
        return app(message, context)
    except Exception as fault:
        trace = "".join(traceback.format_exception(fault))
        if not _can_be_sent(fault):
            return RuntimeError(trace)
        fault.add_note(f"In a worker process:\n{trace}")
        return fault


def _can_be_sent(fault: Exception) -> bool:
    """Return whether another process can make it anew: not from every class's arguments."""
    try:
        copy(fault)  # as pickle does
    except TypeError:
        return False
    return isinstance(fault, FedhealthError | OSError)


def _end_with_parent() -> None:
    """End at once when the parent is gone, so that the resumed run's process is the only one in a site's folder."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - a worker has one
    parent.join()
    os._exit(1)
