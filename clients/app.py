"""The hospital's Flower ClientApp: every reply passes the site's egress gate."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from clients.context import SiteContext
from clients.institution import Institution, build_refusal
from clients.message import ParsedMessage
from clients.private_section import PrivateTaskError, private_section
from clients.request_check import refuse_mismatches
from clients.request_log import describe_request
from clients.reservation import reserve_sweep_budget
from clients.run_model import RunModel
from clients.site_setup import SiteSetup
from clients.statements import add_statement, find_restore_reasons, make_statement_schema
from clients.study_admission import find_admission_refusal, release_closed_study, reserve_study_sweep
from clients.terms import load_terms
from fedhealth.consortium.signed_job import SignedJob
from fedhealth.errors import FedhealthError, RequestMismatchError
from fedhealth.models.weights import set_weights_folder
from fedhealth.privacy.accounting.release import record_failure
from fedhealth.protocol.job import Job, compose_job_config
from fedhealth.protocol.messages import (
    ABANDON,
    ACCEPTANCE,
    DATA_KINDS,
    DESCRIBE,
    EVALUATE,
    HANDSHAKE,
    SIGN,
    STATEMENT,
    TRAIN,
    UNMASK,
    Acceptance,
    Directive,
    build_error_reply,
)
from fedhealth.runs.run_dir import RunDir
from fedhealth.site.audit_log import AuditLog
from fedhealth.site.egress_gate import EgressGate, check_error, make_acceptance_schema
from fedhealth.site.home import SiteHome
from fedhealth.site.policy import SIMULATION_LIMITS
from fedhealth.site.run_history import round_count_down
from fedhealth.site.study_shares import make_share
from fedhealth.site.traffic_quota import TrafficQuota
from fedhealth.utils.atomic_io import unsynced_files
from fedhealth.utils.own_code import explain_own_code

MessageHandler = Callable[[Institution, ParsedMessage], RecordDict]

log = logging.getLogger("fedhealth.site")
_RESERVATION_SECONDS = 3 * 86400.0  # of virtual sites; a hospital's signed job and policy set their own limit

HANDLERS: dict[str, MessageHandler] = {
    HANDSHAKE: lambda institution, message: institution.join(message),
    TRAIN: lambda institution, message: institution.train(message),
    EVALUATE: lambda institution, message: institution.evaluate(message),
    DESCRIBE: lambda institution, message: institution.describe(message),
    SIGN: lambda institution, message: institution.handle_transport_message(message),
    ABANDON: lambda institution, message: institution.handle_transport_message(message),
    UNMASK: lambda institution, message: institution.handle_transport_message(message),
}


def build_app(job: Job | None = None) -> ClientApp:
    """Return the ClientApp for one job; None takes the job from Flower's run configuration."""
    app = ClientApp()

    def handle(message: Message, context: Context) -> Message:
        return handle_message(message, context, job)

    for message_type in HANDLERS:
        category, action = message_type.split(".")
        getattr(app, category)(action)(handle)
    return app


def handle_message(message: Message, context: Context, job: Job | None = None) -> Message:
    """Reply to one message through the gate; on failure the site logs the error and the lead gets only its kind.

    Raises:
        Exception: a failure that cannot be recorded in the privacy ledger: no reply leaves. At a hospital the worker
            process ends; its daemon goes offline until it can record the failure itself.

    """
    kind, home = message.metadata.message_type, find_site_home(context)
    write = AuditLog(home.audit).write if home else _log_event
    try:
        text = str(context.run_config.get("job", ""))
        if home:
            content = _handle_as_hospital(message, home, text)
        else:
            with unsynced_files():
                content = _handle_as_virtual_site(message, context, job or Job.loads(text))
        return Message(content, reply_to=message)
    except Exception as fault:
        log.exception("%s failed", kind)
        is_refused = isinstance(fault, RequestMismatchError)  # before the data were touched: no booking is spent
        datasets = [fault.dataset] if isinstance(fault, PrivateTaskError) else []
        is_counted = not is_refused and (kind in DATA_KINDS or bool(datasets))
        if is_counted and (booked := _find_run(message, context, job)) is not None:
            record_failure(*booked, datasets)  # spends what is booked, before the error reply leaves
        if home is None:
            _show_cause(message, context, job, fault)
        reply = build_error_reply(fault, message)
        check_error(kind, reply.error.code, str(reply.error.reason), write)
        return reply


def _show_cause(message: Message, context: Context, job: Job | None, fault: Exception) -> None:
    """Write the cause of a virtual site's fault into the run's events: on one machine it is no secret."""
    with suppress(FedhealthError):
        run = job or Job.loads(str(context.run_config.get("job", "")))
        cause: BaseException = fault.__cause__ if isinstance(fault, PrivateTaskError) and fault.__cause__ else fault
        cause = cause if isinstance(cause, FedhealthError) else explain_own_code(cause) or cause
        told = (cause.problem, cause.advice) if isinstance(cause, FedhealthError) else (repr(cause), "")
        event = {"site": get_virtual_site(context, run).name, "problem": told[0], "advice": told[1]}
        RunDir(Path(run.folder)).append_event("site_fault", task=message.metadata.message_type, **event)


def _find_run(message: Message, context: Context, job: Job | None) -> tuple[Path, str] | None:
    """Return the folder of the ledgers and the run of a message; None for one that names no run: it booked nothing."""
    home, text = find_site_home(context), str(context.run_config.get("job", ""))
    with suppress(FedhealthError):
        if home:
            return home.state, SignedJob.parse(text).run
        return get_virtual_site(context, job or Job.loads(text)).folder, Directive.parse(message.content).run
    return None


def find_site_home(context: Context) -> SiteHome | None:
    """Return the hospital's home folder; None for a virtual site of a run on one machine."""
    path = context.node_config.get("home")
    return None if path is None else SiteHome(Path(str(path)))


def _handle_as_virtual_site(message: Message, context: Context, job: Job) -> RecordDict:
    """Reply as a virtual site of a run on one machine; its data belong to the user."""
    site, gate = get_virtual_site(context, job), EgressGate(SIMULATION_LIMITS, _log_event, is_audited=False)
    if job.budget_request is None:
        institution = get_institution(site, job)
        return _handle_and_check(institution, _parse_message(message), gate)
    request = job.budget_request
    jobs = [replace(job, run=r.run, overrides=r.overrides, digest=r.digest, budget_request=None) for r in request.runs]
    until = time.time() + _RESERVATION_SECONDS
    reserve = partial(reserve_sweep_budget, site, jobs, request, until)
    return _handle_budget_request(_parse_message(message), gate, site.name, reserve)


def _parse_message(message: Message) -> ParsedMessage:
    """Decode a message; one that is malformed gets the one refusal."""
    with refuse_mismatches():
        return ParsedMessage.parse(message)


def get_virtual_site(context: Context, job: Job) -> SiteContext:
    """Return the virtual site of a node, by the name in its configuration or by its index among the run's sites."""
    name = context.node_config.get("site")
    if name is None:
        name = compose_job_config(job).data.sites[int(context.node_config["partition-id"])]
    return SiteContext.virtual(str(name), RunDir(Path(job.folder)).site_dir(str(name)))


def _handle_as_hospital(message: Message, home: SiteHome, text: str) -> RecordDict:
    """Reply as a hospital, under its policy."""
    terms = load_terms(text, home)
    limits, run, arrays = terms.policy.limits, terms.job.run, home.get_run_folder(terms.job.run)
    gate = EgressGate(limits, AuditLog(home.audit).write, TrafficQuota(arrays, int(limits.megabytes_per_round * 1e6)))
    parsed = _parse_message(message)
    if parsed.directive.run != run:
        raise RequestMismatchError("The message belongs to another run than its job.", "Nothing was done.")
    gate.log("asked", **describe_request(parsed))
    share = make_share(terms.study.study) if terms.study.study else None
    site = SiteContext(terms.policy.name, home.state, home.keys, arrays, limits, home.audit, study=share)
    release_closed_study(terms, home)
    if reasons := terms.decision.reasons or find_restore_reasons(site, parsed):
        return _decline_run(parsed, site.name, reasons, gate)
    set_weights_folder(terms.policy.resources.weights)
    if terms.job.budget_request is not None:
        until = min(terms.job.expires, terms.job.issued + limits.hours * 3600)
        if terms.study.approval is None:
            reserve = partial(reserve_sweep_budget, site, terms.decision.jobs, terms.job.budget_request, until)
        else:
            reserve = partial(reserve_study_sweep, terms, home, site)
        return _handle_budget_request(parsed, gate, site.name, reserve)
    (job,) = terms.decision.jobs
    source = terms.policy.data[compose_job_config(job).data.name]  # approved: the policy has these data
    institution = get_institution(replace(site, dataset=source.dataset), job)
    if reason := find_admission_refusal(terms, home, institution, parsed):
        return _decline_run(parsed, site.name, (reason,), gate)
    return _handle_and_check(institution, parsed, gate)


def _handle_budget_request(
    message: ParsedMessage, gate: EgressGate, site: str, reserve: Callable[[], RecordDict]
) -> RecordDict:
    """Reserve the budget of a sweep and reply; a job with a budget request may not ask for anything else."""
    if message.kind != HANDSHAKE:
        raise RequestMismatchError("A sweep's budget request allows a reservation only.", "Nothing was done.")
    content = reserve()
    _log_refusal(message, content, gate)
    gate.check(message.kind, message.directive, content, {ACCEPTANCE: make_acceptance_schema(site)})
    return content


def _decline_run(message: ParsedMessage, site: str, reasons: Sequence[str], gate: EgressGate) -> RecordDict:
    """Reply to the handshake with the reasons why this hospital declines; fail on any other message."""
    _log_decline(message, reasons, gate)
    log.warning("declined: %s", "; ".join(reasons))
    if message.kind != HANDSHAKE:
        raise RequestMismatchError(f"The policy declines this run: {'; '.join(reasons)}.", "Nothing was done.")
    content = build_refusal(site, reasons)
    gate.check(message.kind, message.directive, content, {ACCEPTANCE: make_acceptance_schema(site)})
    return content


def _handle_and_check(institution: Institution, message: ParsedMessage, gate: EgressGate) -> RecordDict:
    """Return the reply after the gate has checked it."""
    content, kind, setup = HANDLERS[message.kind](institution, message), message.kind, institution.setup
    if kind == HANDSHAKE and _is_accepted(content):
        with private_section(setup.trainer):
            schemas = institution.get_data_schemas(message.directive)
        if reasons := gate.find_unsendable(schemas):
            content = build_refusal(setup.site.name, reasons)
        elif setup.site.audit is not None:
            with private_section(setup.trainer):
                _log_data(setup, message, gate)
    _log_refusal(message, content, gate)
    with private_section(setup.trainer) if kind in DATA_KINDS else nullcontext():
        schema, receipt = institution.get_reply_schema(message), institution.get_receipt(message, content)
        if setup.site.audit is not None and (kind in DATA_KINDS or _is_accepted(content)):
            add_statement(setup.site, message, content, is_plaintext=setup.transport.is_plaintext)
            schema = {**schema, STATEMENT: make_statement_schema(setup.site.name)}
        gate.check(kind, message.directive, content, schema, receipt)
    return content


def _log_refusal(message: ParsedMessage, content: RecordDict, gate: EgressGate) -> None:
    """Log the reasons of a reply that declines."""
    if ACCEPTANCE in content and (reasons := Acceptance.parse(content).reasons):
        _log_decline(message, reasons, gate)


def _log_decline(message: ParsedMessage, reasons: Sequence[str], gate: EgressGate) -> None:
    gate.log("run declined", kind=message.kind, run=message.directive.run, reasons=list(reasons))


def _log_data(setup: SiteSetup, message: ParsedMessage, gate: EgressGate) -> None:
    """Log which data a run will read: for the hospital's own record of its runs."""
    subjects = round_count_down(setup.cohort.counts()["patients"])
    about = {"dataset": setup.site.dataset, "digest": setup.data_digest, "subjects": subjects}
    gate.log("data", run=message.directive.run, **about)


def _is_accepted(content: RecordDict) -> bool:
    """Return whether a reply accepts a handshake."""
    return ACCEPTANCE in content and not Acceptance.parse(content).reasons


def _log_event(event: str, **fields: object) -> None:
    """Log an event of a virtual site's gate."""
    log.debug("%s %s", event, fields)


def get_institution(site: SiteContext, job: Job) -> Institution:
    """Return the site's institution, cached between the messages of one job."""
    cache = get_job_cache(job)
    if site not in cache.institutions:
        config = compose_job_config(job)
        cache.institutions[site] = Institution(site, config, job.digest, cache.run_model)
    return cache.institutions[site]


@dataclass(frozen=True)
class JobCache:
    """The sites of a job in this process, and their model."""

    run_model: RunModel
    institutions: dict[SiteContext, Institution] = field(default_factory=dict)


@lru_cache(maxsize=1)
def get_job_cache(job: Job) -> JobCache:
    """Return what is kept for a job; the next job frees the data and models of this one."""
    return JobCache(RunModel(compose_job_config(job)))


app = build_app()
