"""The site daemon: pulls the lead's messages, verifies their signed job, has a worker process them, sends the replies.

It connects outwards only and keeps no data. What it retries, and how it recovers:

- Lost connection, or a SuperLink that restarts: retry and reconnect with exponential backoff (`_serve_with_reconnect`).
- Crash or restart of this site: the message in progress is on disk and is processed again (`PendingMessage`).
- Reply that could not be sent: it stays pending and is redelivered after the reconnect (`_deliver_reply`).
- Crashed, hung or too large worker: one task fails and spends what it booked, the next task gets a new worker.
- Job that the lead did not sign: declined at once and written to the audit log.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec

from fedhealth.consortium.identity import get_secrets_folder
from fedhealth.consortium.membership import SignedMembership
from fedhealth.errors import FedhealthError
from fedhealth.flower.client.fleet_client import FleetClient, PulledMessage, connect_to_lead
from fedhealth.flower.client.http_client import ConnectionLostError, RequestRefusedError
from fedhealth.flower.client.message_codec import EncodedMessage, encode_empty_reply, encode_error_reply
from fedhealth.flower.client.pending_message import PendingMessage
from fedhealth.protocol.messages import END, TIMED_KINDS
from fedhealth.protocol.refusals import build_refusal
from fedhealth.site.active_run import ActiveRun, describe_order, read_protection, verify_run
from fedhealth.site.audit_log import AuditLog
from fedhealth.site.daemon_state import DaemonState
from fedhealth.site.home import SiteHome
from fedhealth.site.job_history import JobHistory, RunEnd
from fedhealth.site.own_report import SiteReporter
from fedhealth.site.policy import Policy, load_policy
from fedhealth.site.reply_grid import wait_for_reply_slot
from fedhealth.site.study_shares import release_unapproved_shares
from fedhealth.site.study_store import StudyStore
from fedhealth.site.worker import start_forkserver

log = logging.getLogger("fedhealth.site")

_POLL_SECONDS = (0.1, 2.0)  # shortest and longest poll interval: a tenth of the time since the last message
_RECONNECT_BACKOFF_SECONDS = (1.0, 30.0)  # first and longest delay before a reconnect; it doubles each time
_RUN_CHECK_SECONDS = 60.0  # interval at which the lead is asked whether a run has ended


@dataclass
class _PendingReply:
    """A reply that has not reached the lead yet.

    Attributes:
        request: the message that it replies to.
        content: the encoded reply.
        seconds: in a private run the reply's slot on the time grid, otherwise 0: how long a task took is not sent.

    """

    request: PulledMessage
    content: EncodedMessage
    seconds: float


class SiteDaemon:
    """The long-running process of one site.

    Args:
        home: the hospital's folder.
        application: import path of the hospital's Flower application.
        write_metrics: see `DaemonState`.

    """

    def __init__(self, home: SiteHome, application: str, write_metrics: Callable[[], None] | None = None) -> None:
        self.home, self.application = home, application
        self.state, self.job_history = DaemonState(home, write_metrics), JobHistory(home)
        self.stopping = threading.Event()
        self._audit, self._pending_message = AuditLog(home.audit), PendingMessage(home.daemon_folder / "inbox.json")
        self._runs: dict[int, ActiveRun] = {}
        self._pending_reply: _PendingReply | None = None
        self._pulled_id = ""  # id of the message whose content was pulled last
        self._runs_checked = 0.0
        self._failed_run: int | None = None  # whose message ended in the error that the status shows

    def serve(self) -> None:
        """Process the lead's messages until `stopping` is set.

        Raises:
            FedhealthError: the site is not set up, or its daemon is running already.

        """
        policy, key = load_policy(self.home), self.home.load_node_key()
        self.home.load_identity_key()  # the worker signs with it: without it every task would fail
        SignedMembership.loads(self.home.membership.read_bytes() if self.home.membership.is_file() else b"")
        with self.state.lock():
            fresh = {"error": None, "run": None, "round": None}
            self.state.update_status(state="starting", site=policy.name, lead=policy.lead, **fresh)
            start_forkserver(self.application)
            self._audit.write("started")
            for run in self.job_history.find_expired(policy.limits.hours):
                self._end_run(run, RunEnd.expiry)
            self._check_studies()
            try:
                self._serve_with_reconnect(policy.lead, key)
            finally:
                self._stop_workers()
                self._audit.write("stopped")
                self.state.update_status(state="stopped", run=None, round=None)

    def _serve_with_reconnect(self, lead: str, key: ec.EllipticCurvePrivateKey) -> None:
        """Connect and process messages; after a failure, reconnect with exponential backoff until `stopping` is set."""
        first_delay, longest_delay = _RECONNECT_BACKOFF_SECONDS
        delay = first_delay
        while not self.stopping.is_set():
            try:
                proxy = load_policy(self.home).proxy.find(lead)
                with connect_to_lead(lead, str(self.home.ca), key, SiteReporter(self.home), proxy) as connection:
                    self.state.update_status(state="connected", error=None)
                    delay = first_delay
                    self._process_messages(connection)
            except Exception as fault:
                expected = isinstance(fault, ConnectionLostError | FedhealthError)
                log.warning("%s", fault, exc_info=None if expected else fault)
                error = f"{fault}".partition("\n")[0] or type(fault).__name__
                self.state.update_status(state="offline", error=error)
                self.stopping.wait(delay)
                delay = min(2 * delay, longest_delay)

    def _process_messages(self, connection: FleetClient) -> None:
        """Poll for messages and process them, until the connection fails or `stopping` is set."""
        last_message = 0.0
        while not self.stopping.is_set():
            if self._pending_reply is not None:
                self._deliver_reply(connection)
            if self.state.is_paused:
                self.state.update_status(state="paused")
                self.stopping.wait(_POLL_SECONDS[1])
                continue
            polled = time.monotonic()
            message = self._pending_message.load() or connection.pull_message()
            if message is not None:
                self._pending_message.save(message)
                self._process_message(connection, message)
                last_message = time.monotonic()
            else:
                self._release_ended_runs(connection)
                self.stopping.wait(_compute_poll_delay(polled, last_message))

    def _process_message(self, connection: FleetClient, message: PulledMessage) -> None:
        """Compute the reply to a message and deliver it; a failure becomes an error reply."""
        received, kind = time.monotonic(), message.message_type
        try:
            reply = self._compute_reply(connection, message)
        except FedhealthError as fault:
            log.warning("%s: %s", kind, fault)
            error = build_refusal(fault)
            self._audit.write("declined", kind=kind, flower_run=str(message.run_id), reason=error.reason)
            self.state.update_status(error=fault.problem)
            self._failed_run = message.run_id
            reply = encode_error_reply(message.header, error)
        except RequestRefusedError as fault:  # the run has ended: no reply is expected
            log.warning("%s: %s", kind, fault)
            self._pending_message.clear()
            return
        seconds: float | None = 0.0  # the time of a task follows the data: it is not sent
        if kind in TIMED_KINDS and (run := self._runs.get(message.run_id)) and run.is_private:
            seconds = wait_for_reply_slot(received, self.stopping)
        if seconds is not None:  # else the daemon stops between two slots: it replies after its next start
            self._pending_reply = _PendingReply(message, reply, seconds)
            self._deliver_reply(connection)

    def _compute_reply(self, connection: FleetClient, message: PulledMessage) -> EncodedMessage:
        """Return the reply of the run's worker.

        Raises:
            FedhealthError: the run is not the lead's, the message is too large, or the worker failed.

        """
        policy = load_policy(self.home)
        run = self._accept_run(connection, message.run_id, policy)
        if message.message_type == END:
            self._end_run(run.job.run, RunEnd.lead)
            return encode_empty_reply(message.header)
        content = connection.pull_content(message, int(policy.resources.incoming_megabytes * 1e6))
        self._pulled_id = message.message_id
        self.state.update_status(state="working", run=run.job.run, task=message.message_type, error=None)
        run.start_worker(self.home, self.application, connection.node_id)
        try:
            return run.process(self.home, content, message.message_type, policy.resources)
        finally:
            self.state.update_status(state="connected", task=None)

    def _accept_run(self, connection: FleetClient, run_id: int, policy: Policy) -> ActiveRun:
        """Verify the signed job of a run; the first message of a run makes it the active one.

        Raises:
            TrustError: the lead did not sign it, it brings another bundle than the installed release, or it has ended.

        """
        run = verify_run(connection, run_id, self.home, self._runs.get(run_id))
        self.job_history.start_or_resume(run.job, policy.limits.hours)
        if run_id not in self._runs:
            self._stop_workers()
            self._runs[run_id] = run
            run.is_private, run.is_plaintext = read_protection(run.job, policy.conf)
            self._audit.write("accepted", **describe_order(run))
        return run

    def _deliver_reply(self, connection: FleetClient) -> None:
        """Send the pending reply; if the connection fails, it stays pending and is redelivered after the reconnect.

        Only after the reply has arrived is the request confirmed: until then the SuperLink redelivers the request to a
        site that has restarted. A message whose content was never pulled is not confirmed: the SuperLink may still be
        receiving it.
        """
        if (reply := self._pending_reply) is None:
            return
        try:
            connection.push_reply(reply.request.run_id, reply.content, reply.seconds)
            if reply.request.message_id == self._pulled_id:
                connection.confirm_message(reply.request)
        except RequestRefusedError as fault:  # the run has ended, or its deadline for this reply has passed
            log.warning("the lead's server refused a reply: %s", fault)
        self._pending_reply = None
        self._pending_message.clear()

    def _release_ended_runs(self, connection: FleetClient) -> None:
        """Stop the workers of runs that have ended at the lead, where one may be resumed later; forget their error."""
        runs = {*self._runs, *([] if self._failed_run is None else [self._failed_run])}
        if not runs or time.monotonic() - self._runs_checked < _RUN_CHECK_SECONDS:
            return
        self._runs_checked = time.monotonic()
        for run_id in runs:
            try:
                connection.get_run(run_id)
            except RequestRefusedError:
                if run_id in self._runs:
                    self._stop_workers()
                if run_id == self._failed_run:
                    self._failed_run = None
                    self.state.update_status(error=None)

    def _end_run(self, run: str, by: RunEnd) -> None:
        """Mark a job as ended for good and delete its secure aggregation secrets."""
        self._stop_workers()
        self.job_history.mark_ended(run)
        self.state.update_status(run=None)
        name = load_policy(self.home).name
        shutil.rmtree(get_secrets_folder(run, name, self.home.state), ignore_errors=True)
        self._audit.write("ended", run=run, by=str(by))

    def _check_studies(self) -> None:
        """Name the studies that this release refuses, and give back what no approval holds since a crash."""
        store = StudyStore(self.home)
        try:
            for refused in store.read_studies().refused:
                log.error("%s %s", refused.sentence, refused.advice)
                self._audit.write("study set aside", digest=refused.digest, reason=refused.sentence)
            with store.lock_decisions():
                release_unapproved_shares(self.home)
        except FedhealthError as fault:  # it stops runs of that study or data set, not the site
            log.warning("%s", fault)

    def _stop_workers(self) -> None:
        for run in self._runs.values():
            run.stop_worker()
        self._runs.clear()


def _compute_poll_delay(polled: float, last_message: float) -> float:
    """Return the seconds until the next poll, less the time that the server's long poll has already taken."""
    now, (shortest, longest) = time.monotonic(), _POLL_SECONDS
    return max(0.0, min(longest, max(shortest, (now - last_message) / 10)) - (now - polled))
