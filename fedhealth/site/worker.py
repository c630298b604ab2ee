"""The process that works on a run's messages: forked from one that has imported everything, watched, replaceable.

The runner speaks to the network and touches no data; the worker touches data and has no connection. A worker that
crashes, takes too long or too much memory costs one task.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection, wait
from pathlib import Path

from flwr.app import Context, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedhealth.errors import FedhealthError
from fedhealth.flower.client.message_codec import Parcel, parcel_of, receive, send
from fedhealth.site.policy import Resources

_LOOK_SECONDS = 0.5  # between two looks at a worker's memory
_PAGE = os.sysconf("SC_PAGE_SIZE")
# What the first task of every run would otherwise import, for seconds.
_PRELOADED = ("fedhealth.site.worker", "fedhealth.models.encoders.image", "fedhealth.models.encoders.text", "opacus")


class WorkerError(FedhealthError):
    """A worker ended, took too long or needed too much memory; its task is lost, the next one gets a new worker."""


def prepare(application: str) -> None:
    """Start the process from which workers are forked, with everything imported; takes seconds, once.

    Args:
        application: import path of the hospital's Flower application.

    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # weights come from this machine: no job makes a hospital fetch a model
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([application.rpartition(".")[0], *_PRELOADED])
    warm = context.Process(target=_nothing)
    warm.start()
    warm.join()


class Worker:
    """One run's worker.

    Args:
        home: the hospital's folder.
        application: import path of its Flower application.
        node: Flower's node id.
        log: file for what it has to say.

    """

    def __init__(self, home: Path, application: str, node: int, log: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, home, application, node, log), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def alive(self) -> bool:
        """Tell whether it can take a task."""
        return self._process.is_alive()

    def work(self, job: str, task: Parcel, limits: Resources) -> Parcel:
        """Return the answer to a message.

        Raises:
            WorkerError: it ended, took too long, or needed too much memory.

        """
        try:
            send(self._connection, job, task)
            self._watch(limits)
            return receive(self._connection)[1]
        except (EOFError, OSError) as fault:
            self.stop()
            code = self._process.exitcode
            raise WorkerError(f"A worker ended by itself (exit code {code}).", "See site.log and dmesg.") from fault
        except WorkerError:
            self.stop()
            raise

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _watch(self, limits: Resources) -> None:
        """Wait for the answer to begin."""
        ends = time.monotonic() + limits.minutes * 60
        while not wait([self._connection, self._process.sentinel], _LOOK_SECONDS):
            if time.monotonic() > ends:
                raise WorkerError(f"A task took more than {limits.minutes:g} minutes.", "Raise resources.minutes.")
            if (used := _memory(self._process.pid)) > limits.memory_gb * 1e9:
                raise WorkerError(
                    f"A task needed {used / 1e9:.1f} GB; {limits.memory_gb:g} are allowed.",
                    "Raise resources.memory_gb or lower privacy.physical_rows.",
                )


def _memory(pid: int | None) -> int:
    """Return the resident memory of a process in bytes, 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _serve(connection: Connection, home: Path, application: str, node: int, log: Path) -> None:
    """Answer messages until the runner ends."""
    from hydra.utils import get_object

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the runner's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _log_to(log)
    app = get_object(application)
    ended = (EOFError, BrokenPipeError)  # of the runner; nobody waits for an answer any more
    while True:
        try:
            job, parcel = receive(connection)
        except ended:
            return
        message = parcel.message()
        run = message.metadata.run_id
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run, node, 1
        context = Context(run, node, {"home": str(home)}, RecordDict(), {"job": job})
        del parcel
        answer = parcel_of(app(message, context))
        try:
            send(connection, "", answer)
        except ended:
            return
        del message, answer  # before the next ones come


def _log_to(path: Path) -> None:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger = logging.getLogger("fedhealth")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _nothing() -> None:
    """End at once."""
