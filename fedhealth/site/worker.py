"""The worker process of a run: forked from a preloaded server process, monitored, and replaced after a failure.

The daemon has the network and no data; the worker has the data and no network. When a worker crashes, misses its
deadline or exceeds its memory limit, one task fails. The lead cannot tell these three failures from any other failure
of a task that has touched data.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection, wait
from pathlib import Path

from flwr.app import Context, RecordDict

from fedhealth.consortium.signed_job import SignedJob
from fedhealth.errors import SiteTaskError
from fedhealth.flower.client.message_codec import (
    EncodedMessage,
    encode_message,
    hide_reply_time,
    read_from_pipe,
    write_to_pipe,
)
from fedhealth.flower.compat import set_task_identity
from fedhealth.site.home import SiteHome
from fedhealth.site.log_file import configure_worker_log
from fedhealth.site.policy import Resources, load_policy
from fedhealth.utils.warm_processes import start_server

_POLL_SECONDS = 0.5  # interval of the health check of a worker: deadline and memory
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Preloaded once, because these imports take seconds and every run's first task needs them.
_PRELOADED_MODULES = (
    "fedhealth.site.worker",
    "fedhealth.models.encoders.image",
    "fedhealth.models.encoders.text",
    "opacus",
)


class WorkerError(SiteTaskError):
    """A worker died, missed its deadline or exceeded its memory limit. Its task failed; the next gets a new worker."""


class UnrecordedFailureError(Exception):
    """A failure could not be recorded in the privacy ledger, so no error reply may leave.

    It is no `FedhealthError`, whose kind would be sent to the lead: the daemon goes offline and tries again.
    """


def start_forkserver(application: str) -> None:
    """Start the fork server, the process that has imported everything and from which workers are forked.

    It takes seconds, once.

    Args:
        application: import path of the hospital's Flower application.

    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # weights come from local files: no job can make a hospital download a model
    start_server([application.rpartition(".")[0], *_PRELOADED_MODULES], ends_with_interrupt=False)
    warm = multiprocessing.get_context("forkserver").Process(target=_do_nothing)
    warm.start()
    warm.join()


class Worker:
    """One run's worker.

    Args:
        home: the hospital's folder.
        application: import path of its Flower application.
        node_id: Flower's.
        log_file: the site's log file.
        is_private: whether the run has differential privacy. Denormal numbers then count as zero: they take a processor
            up to 100 times as long, so a crafted model could tell by the time of a reply what some patient has.

    """

    def __init__(self, home: Path, application: str, node_id: int, log_file: Path, is_private: bool = False) -> None:
        context = multiprocessing.get_context("forkserver")
        self._connection, child_end = context.Pipe()
        arguments = (child_end, home, application, node_id, log_file, is_private)
        self._process = context.Process(target=_run_worker, args=arguments, daemon=True)
        self._process.start()
        child_end.close()

    @property
    def is_alive(self) -> bool:
        """Whether the process runs and can take a task."""
        return self._process.is_alive()

    def process(self, job: str, message: EncodedMessage, limits: Resources) -> EncodedMessage:
        """Return the reply to a message.

        Raises:
            WorkerError: the process died, missed its deadline, or exceeded its memory limit.

        """
        try:
            write_to_pipe(self._connection, job, message)
            self._wait_for_reply(limits)
            return read_from_pipe(self._connection)[1]
        except (EOFError, OSError) as fault:
            self.stop()
            code = self._process.exitcode
            problem = f"The worker process died (exit code {code})."
            advice = "See run/site.log in the site's folder, and `dmesg` for the kernel's out-of-memory killer."
            raise WorkerError(problem, advice) from fault
        except WorkerError:
            self.stop()
            raise

    def stop(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _wait_for_reply(self, limits: Resources) -> None:
        """Wait for the reply; check the deadline and the memory limit meanwhile."""
        deadline = time.monotonic() + limits.minutes * 60
        while not wait([self._connection, self._process.sentinel], _POLL_SECONDS):
            if time.monotonic() > deadline:
                problem = f"A task took more than {limits.minutes:g} minutes and was stopped."
                raise WorkerError(problem, "Raise resources.minutes in site.yaml.")
            if (used := _read_resident_memory(self._process.pid)) > limits.memory_gb * 1e9:
                raise WorkerError(
                    f"A task used {used / 1e9:.1f} GB of memory and was stopped; the limit is {limits.memory_gb:g} GB.",
                    "Raise resources.memory_gb in site.yaml, or ask the lead for training.activation_checkpointing.",
                )


def _read_resident_memory(pid: int | None) -> int:
    """Return the resident memory of a process in bytes, 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0


def _run_worker(
    connection: Connection, home: Path, application: str, node_id: int, log_file: Path, is_private: bool
) -> None:
    """Process messages until the daemon ends."""
    import torch  # the daemon, which imports this module, does without
    from hydra.utils import get_object

    torch.set_flush_denormal(is_private)  # threads that start later inherit it

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the daemon handles it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    configure_worker_log(log_file)
    app = get_object(application)
    daemon_ended = (EOFError, BrokenPipeError)
    while True:
        try:
            job, encoded = read_from_pipe(connection)
        except daemon_ended:
            return
        message = encoded.decode()
        run_id = message.metadata.run_id
        set_task_identity(run_id, node_id)
        context = Context(run_id, node_id, {"home": str(home)}, RecordDict(), {"job": job})
        del encoded
        reply = encode_message(hide_reply_time(app(message, context), message))
        try:
            write_to_pipe(connection, "", reply)
        except daemon_ended:
            return
        del message, reply  # frees their memory before the next message


def record_task_failure(home: SiteHome, job: str) -> None:
    """Record in a process of its own, without network, that a task of a job failed: its open bookings are spent.

    If it has none, the failure counts all the same: that a task fails may depend on the data before anything is booked.

    Args:
        home: the hospital's folder.
        job: the job as it was signed.

    Raises:
        UnrecordedFailureError: the ledger cannot be written.

    """
    process = multiprocessing.get_context("forkserver").Process(target=_record_failure, args=(home, job))
    process.start()
    process.join()
    if process.exitcode:
        problem = "a failed task cannot be recorded in the privacy ledger (see the site's log): no reply leaves"
        raise UnrecordedFailureError(problem)


def _record_failure(home: SiteHome, content: str) -> None:
    from fedhealth.privacy.accounting.release import record_failure  # the accountants take seconds to import
    from fedhealth.site.job_approval import find_private_datasets

    configure_worker_log(home.log_file)
    job = SignedJob.parse(content)
    record_failure(home.state, job.run, find_private_datasets(job, load_policy(home)))


def _do_nothing() -> None:
    """Return at once: the first fork starts the fork server."""
