"""The hospital's Flower application: every answer leaves through the gate."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from clients.institution import Institution, Site, declined
from clients.reservation import reserve
from fedhealth.consortium.membership import SignedMembership
from fedhealth.consortium.signed_job import Order
from fedhealth.errors import PrivacyError, TrustError
from fedhealth.models.weights import use_folder
from fedhealth.protocol.budget_request import Statement
from fedhealth.protocol.job import Job, config_of
from fedhealth.protocol.messages import (
    ACCEPTANCE,
    DESCRIBE,
    EVALUATE,
    HANDSHAKE,
    SIGN,
    TRAIN,
    UNMASK,
    Directive,
    failure,
)
from fedhealth.runs.run_dir import RunDir
from fedhealth.site.audit_log import AuditLog
from fedhealth.site.egress_gate import Gate, acceptance_form, check_error
from fedhealth.site.home import SiteHome
from fedhealth.site.job_approval import Consent, consider, consider_sweep
from fedhealth.site.policy import REHEARSAL, Policy, load_policy
from fedhealth.site.traffic_quota import Traffic

Answer = Callable[[Institution, Directive, RecordDict], RecordDict]

log = logging.getLogger("fedhealth.site")
_KEPT_SECONDS = 3 * 86400.0  # for which virtual sites reserve; a hospital's order and policy say how long

ANSWERS: dict[str, Answer] = {
    HANDSHAKE: lambda institution, directive, content: institution.accept(directive),
    TRAIN: lambda institution, directive, content: institution.fit(directive, content),
    EVALUATE: lambda institution, directive, content: institution.evaluate(directive, content),
    DESCRIBE: lambda institution, directive, content: institution.describe(directive, content),
    SIGN: lambda institution, directive, content: institution.answer(directive, SIGN, content),
    UNMASK: lambda institution, directive, content: institution.answer(directive, UNMASK, content),
}


@dataclass(frozen=True)
class Terms:
    """On what terms a hospital takes part: its policy as it is now, and its decision on an order."""

    policy: Policy
    order: Order
    consent: Consent


def build(job: Job | None = None) -> ClientApp:
    """Return the application, for one job or (where Flower brings it) for the job in the run configuration."""
    app = ClientApp()

    def handle(message: Message, context: Context) -> Message:
        return answer(message, context, job)

    for message_type in ANSWERS:
        category, action = message_type.split(".")
        getattr(app, category)(action)(handle)
    return app


def answer(message: Message, context: Context, job: Job | None = None) -> Message:
    """Answer one message through the gate; a fault stays in the site's log, the lead learns its kind."""
    kind, home = message.metadata.message_type, home_of(context)
    write = AuditLog(home.audit).write if home else _note
    try:
        words = str(context.run_config.get("job", ""))
        content = _hospital(message, home, words) if home else _virtual(message, context, job or Job.loads(words))
        return Message(content, reply_to=message)
    except Exception as fault:
        log.exception("%s failed", kind)
        reply = failure(fault, message)
        check_error(kind, reply.error.code, str(reply.error.reason), write)
        return reply


def home_of(context: Context) -> SiteHome | None:
    """Return the hospital's folder; None for a virtual site of a run on one machine."""
    path = context.node_config.get("home")
    return None if path is None else SiteHome(Path(str(path)))


def _virtual(message: Message, context: Context, job: Job) -> RecordDict:
    """Answer as one of the sites of a run on one machine, whose data are the user's own."""
    site, gate = site_of(context, job), Gate(REHEARSAL, _note)
    if job.statement is None:
        return _passed(institution_of(site, job), message, gate)
    statement = job.statement
    jobs = [replace(job, run=r.run, overrides=r.words, digest=r.digest, statement=None) for r in statement.runs]
    return _reserved(message, gate, site, jobs, statement, time.time() + _KEPT_SECONDS)


def site_of(context: Context, job: Job) -> Site:
    """Return the virtual site that a node is: a name of its configuration, or a place among the run's sites."""
    name = context.node_config.get("site")
    if name is None:
        name = config_of(job).data.sites[int(context.node_config["partition-id"])]
    return Site.virtual(str(name), RunDir(Path(job.folder)).site(str(name)))


def _hospital(message: Message, home: SiteHome, words: str) -> RecordDict:
    """Answer as a hospital, under its policy."""
    terms = _terms(words, home, _changed(home.policy), _changed(home.membership))
    limits, run, arrays = terms.policy.limits, terms.order.run, home.arrays(terms.order.run)
    gate = Gate(limits, AuditLog(home.audit).write, Traffic(arrays, int(limits.megabytes_per_round * 1e6)))
    directive, kind = Directive.parse(message.content), message.metadata.message_type
    if directive.run != run:
        raise TrustError("The message belongs to another run than its job.", "Restart the run.")
    if terms.consent.reasons:
        return _declined(kind, directive, terms, gate)
    use_folder(terms.policy.resources.weights)
    site = Site(terms.policy.name, home.state, home.keys, arrays, limits.min_patients)
    if terms.order.statement is not None:
        until = min(terms.order.expires, terms.order.issued + limits.hours * 3600)
        return _reserved(message, gate, site, terms.consent.jobs, terms.order.statement, until)
    (job,) = terms.consent.jobs
    return _passed(institution_of(site, job), message, gate)


def _reserved(
    message: Message, gate: Gate, site: Site, jobs: Sequence[Job], statement: Statement, until: float
) -> RecordDict:
    """Answer a sweep that asks what its runs may spend; it may ask for nothing else."""
    kind, directive = message.metadata.message_type, Directive.parse(message.content)
    if kind != HANDSHAKE:
        raise TrustError("A sweep's statement asks for a reservation only.", "Nothing was done.")
    content = reserve(site, jobs, statement, until)
    gate.check(kind, directive, content, {ACCEPTANCE: acceptance_form(site.name)})
    return content


def _declined(kind: str, directive: Directive, terms: Terms, gate: Gate) -> RecordDict:
    """Say why this hospital does not take part; any other question than that fails."""
    site, reasons = terms.policy.name, terms.consent.reasons
    log.warning("declined: %s", "; ".join(reasons))
    if kind != HANDSHAKE:
        raise PrivacyError(f"The policy declines this run: {'; '.join(reasons)}.", "Nothing was done.")
    content = declined(site, reasons)
    gate.check(kind, directive, content, {ACCEPTANCE: acceptance_form(site)})
    return content


def _passed(institution: Institution, message: Message, gate: Gate) -> RecordDict:
    """Return the answer if the gate lets it out."""
    kind, directive = message.metadata.message_type, Directive.parse(message.content)
    content = ANSWERS[kind](institution, directive, message.content)
    gate.check(kind, directive, content, institution.outgoing(directive, kind))
    return content


@lru_cache(maxsize=4)
def _terms(words: str, home: SiteHome, *changed: int) -> Terms:
    """Return a hospital's terms for an order; worked out again when its policy or its members have `changed`."""
    policy, membership = load_policy(home), SignedMembership.loads(home.membership.read_bytes()).membership
    order = Order.parse(words)
    decide = consider if order.statement is None else consider_sweep
    return Terms(policy, order, decide(order, policy, membership, home))


def _changed(path: Path) -> int:
    """Return when a file was changed last; 0 where there is none, which its reader says better."""
    return path.stat().st_mtime_ns if path.is_file() else 0


def _note(event: str, **fields: object) -> None:
    """Log what a virtual site lets out."""
    log.debug("%s %s", event, fields)


def institution_of(site: Site, job: Job) -> Institution:
    """Return the institution; kept between the tasks of one job for its caches only."""
    known = institutions(job)
    if site not in known:
        known[site] = Institution(site, config_of(job), job.digest)
    return known[site]


@lru_cache(maxsize=1)
def institutions(job: Job) -> dict[Site, Institution]:
    """Return the institutions of a job; a finished job's data and models are let go with the next one."""
    return {}


app = build()
