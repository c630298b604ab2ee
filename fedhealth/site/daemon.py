"""The site's runner: takes the lead's messages, checks who sent them, has a worker answer, sends the answer back.

It connects outwards only, keeps no data, and survives everything but its own end: a lost connection is made again, a
crashed worker costs one task, an order that is not the lead's is refused at once and written down.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flwr.supercore.run import Run

from fedhealth.consortium.identity import secrets_folder
from fedhealth.consortium.membership import SignedMembership
from fedhealth.consortium.signed_job import Order, verified
from fedhealth.errors import FedhealthError, TrustError
from fedhealth.flower.app_bundle import bundle
from fedhealth.flower.client.fleet_client import Link, LostError, RefusedError, Task, connected
from fedhealth.flower.client.message_codec import Parcel, receipt_of, refusal_of
from fedhealth.flower.client.pending_message import Inbox
from fedhealth.protocol.messages import END, error_of
from fedhealth.site.audit_log import AuditLog
from fedhealth.site.daemon_state import SiteState
from fedhealth.site.home import SiteHome
from fedhealth.site.job_history import Orders
from fedhealth.site.policy import Policy, load_policy
from fedhealth.site.worker import Worker, prepare

log = logging.getLogger("fedhealth.site")

_LOOK_SECONDS = (0.1, 2.0)  # shortest and longest wait between two looks: a tenth of the time since the last message
_AGAIN_SECONDS = (1.0, 30.0)  # first and longest wait before connecting again
_ENDED_SECONDS = 60.0  # between two questions whether a run is over


@dataclass
class _Answer:
    """An answer that the lead does not have yet.

    Attributes:
        task: what it is the answer to.
        parcel: its content.
        seconds: that it took.

    """

    task: Task
    parcel: Parcel
    seconds: float


@dataclass
class _Run:
    """One of Flower's runs, believed to be the lead's."""

    order: Order
    words: str
    signature: str
    worker: Worker | None = None


class Runner:
    """One site.

    Args:
        home: the hospital's folder.
        application: import path of the hospital's Flower application.
        write_metrics: see `SiteState`.

    """

    def __init__(self, home: SiteHome, application: str, write_metrics: Callable[[], None] | None = None) -> None:
        self.home, self.application = home, application
        self.state, self.orders = SiteState(home, write_metrics), Orders(home)
        self.stopping = threading.Event()
        self._audit, self._inbox = AuditLog(home.audit), Inbox(home.run / "inbox.json")
        self._runs: dict[int, _Run] = {}
        self._outbox: _Answer | None = None
        self._fetched = ""  # the message whose content was fetched last
        self._looked = 0.0

    def serve(self) -> None:
        """Serve until `stopping` is set.

        Raises:
            FedhealthError: the site is not set up, or is running already.

        """
        policy, key = load_policy(self.home), self.home.node()
        SignedMembership.loads(self.home.membership.read_bytes() if self.home.membership.is_file() else b"")
        with self.state.held():
            self.state.say(state="starting", site=policy.name, lead=policy.lead, error=None, run=None, round=None)
            prepare(self.application)
            self._audit.write("started")
            for run in self.orders.lapsed(policy.limits.hours):
                self._end(run)
            pause = _AGAIN_SECONDS[0]
            try:
                while not self.stopping.is_set():
                    try:
                        with connected(policy.lead, str(self.home.ca), key) as link:
                            self.state.say(state="connected", error=None)
                            pause = _AGAIN_SECONDS[0]
                            self._take(link)
                    except Exception as fault:
                        expected = isinstance(fault, LostError | FedhealthError)
                        log.warning("%s", fault, exc_info=None if expected else fault)
                        self.state.say(state="offline", error=f"{fault}".partition("\n")[0] or type(fault).__name__)
                        self.stopping.wait(pause)
                        pause = min(2 * pause, _AGAIN_SECONDS[1])
            finally:
                self._dismiss()
                self._audit.write("stopped")
                self.state.say(state="stopped", run=None, round=None)

    def _take(self, link: Link) -> None:
        """Take and answer messages as long as the connection holds."""
        busy = 0.0
        while not self.stopping.is_set():
            if self._outbox is not None:
                self._deliver(link)
            if self.state.paused:
                self.state.say(state="paused")
                self.stopping.wait(_LOOK_SECONDS[1])
                continue
            asked = time.monotonic()
            task = self._inbox.waiting() or link.receive()
            if task is not None:
                self._inbox.keep(task)
                self._answer(link, task)
                busy = time.monotonic()
            else:
                self._look(link)
                self.stopping.wait(_pause(asked, busy))

    def _answer(self, link: Link, task: Task) -> None:
        """Put the answer to a message into the outbox."""
        started = time.monotonic()
        try:
            answer = self._work(link, task)
        except FedhealthError as fault:
            log.warning("%s: %s", task.kind, fault)
            error = error_of(fault)
            self._audit.write("declined", kind=task.kind, flower_run=str(task.run), reason=error.reason)
            self.state.say(error=fault.problem)
            answer = refusal_of(task.head, error)
        except RefusedError as fault:  # the run has ended: nobody waits for an answer
            log.warning("%s: %s", task.kind, fault)
            self._inbox.clear()
            return
        self._outbox = _Answer(task, answer, time.monotonic() - started)
        self._deliver(link)

    def _work(self, link: Link, task: Task) -> Parcel:
        """Return the answer of the run's worker.

        Raises:
            FedhealthError: the run is not the lead's, the message is too large, or the worker failed.

        """
        policy = load_policy(self.home)
        run = self._believed(link, task.run, policy)
        if task.kind == END:
            self._end(run.order.run)
            return receipt_of(task.head)
        parcel = link.pull(task, int(policy.resources.incoming_megabytes * 1e6))
        self._fetched = task.message_id
        self.state.say(state="working", run=run.order.run, task=task.kind, error=None)
        if run.worker is None or not run.worker.alive:
            run.worker = Worker(self.home.path, self.application, link.node, self.home.run / "site.log")
        try:
            return run.worker.work(run.words, parcel, policy.resources)
        finally:
            self.state.say(state="connected")

    def _believed(self, link: Link, number: int, policy: Policy) -> _Run:
        """Return a run of Flower's as the order that it carries.

        Raises:
            TrustError: it is not the lead's, brings another bundle than the installed release, or has ended.

        """
        membership = SignedMembership.loads(self.home.membership.read_bytes()).membership
        known = self._runs.get(number)
        words, signature = (known.words, known.signature) if known else _job_of(link.run(number))
        order = verified(words, signature, membership, bundle().digest)
        self.orders.admit(order, policy.limits.hours)
        if known is None:
            self._dismiss()
            self._runs[number] = known = _Run(order, words, signature)
            self._audit.write("accepted", run=order.run, digest=order.digest)
        return known

    def _deliver(self, link: Link) -> None:
        """Send what waits; it waits on where the connection is lost.

        Only now is the server told that the question has arrived: until then a site that ends gets it again. One that
        was not fetched the server may still be getting, and is not to be told.
        """
        if (answer := self._outbox) is None:
            return
        try:
            link.push(answer.task.run, answer.parcel, answer.seconds)
            if answer.task.message_id == self._fetched:
                link.confirm(answer.task)
        except RefusedError as fault:  # the run has ended, or the question is no longer open
            log.warning("an answer was not taken: %s", fault)
        self._outbox = None
        self._inbox.clear()

    def _look(self, link: Link) -> None:
        """Let the workers of runs go that are over at the lead; they may go on there later."""
        if not self._runs or time.monotonic() - self._looked < _ENDED_SECONDS:
            return
        self._looked = time.monotonic()
        for number in list(self._runs):
            try:
                link.run(number)
            except RefusedError:
                self._dismiss()

    def _end(self, run: str) -> None:
        """Take an order up never again, and remove what secure aggregation kept for it."""
        self._dismiss()
        self.orders.end(run)
        name = load_policy(self.home).name
        shutil.rmtree(secrets_folder(run, name, self.home.state), ignore_errors=True)
        self._audit.write("ended", run=run)

    def _dismiss(self) -> None:
        """End all workers."""
        for run in self._runs.values():
            if run.worker is not None:
                run.worker.stop()
        self._runs.clear()


def _pause(asked: float, busy: float) -> float:
    """Return the seconds until the next look; the server has most often waited for us already."""
    now, (shortest, longest) = time.monotonic(), _LOOK_SECONDS
    return max(0.0, min(longest, max(shortest, (now - busy) / 10)) - (now - asked))


def _job_of(about: Run) -> tuple[str, str]:
    """Return the job and the signature that one of Flower's runs carries.

    Raises:
        TrustError: it brings another bundle than the installed release.

    """
    if about.fab_hash != bundle().digest:
        raise TrustError(
            f"Run {about.run_id} brings a bundle that this release does not predict ({about.fab_hash[:12]}).",
            "Nothing was run. Install the lead's release of fedhealth, if it is the lead's run.",
        )
    return str(about.override_config.get("job", "")), str(about.override_config.get("signature", ""))


def log_to(path: Path) -> None:
    """Write the runner's log into a file of the site's, and to the terminal or journal."""
    form = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    logger = logging.getLogger("fedhealth")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    for handler in (logging.FileHandler(path, encoding="utf-8"), logging.StreamHandler()):
        handler.setFormatter(form)
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
