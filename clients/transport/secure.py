"""Secure aggregation at the site: replies are masked and are unmasked only as part of a large enough sum.

The protocol and its rules are in `fedhealth.secagg`; this module runs one site's session. Journal and keys are on disk
and outlive the process that handles a message, so nothing is kept in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

from flwr.app import ConfigRecord, RecordDict

from clients.context import RunContext, SiteContext
from clients.message import ParsedMessage
from clients.release import Release, ReleaseRecorder
from clients.request_check import compare_attempt
from clients.statements import open_statement_book
from clients.transport import contributors
from clients.transport.base import ReplyShapes, digest_incoming
from clients.transport.contributors import ContributorRule
from clients.transport.history import HistoryBook
from clients.transport.secure_attempt import SecureAttempt
from fedhealth.consortium.identity import load_identity, load_roster, make_secrets_folder
from fedhealth.errors import SecureAggregationError
from fedhealth.models.modality_keys import METHOD, SHARED
from fedhealth.models.sum_layout import SumSettings
from fedhealth.protocol.messages import (
    ABANDON,
    DATA_KINDS,
    DESCRIBE,
    EVALUATE,
    HANDSHAKE,
    SEALED,
    SECAGG,
    SIGN,
    TRAIN,
    UNMASK,
    digest_arrays,
    digest_task,
    get_config_record,
)
from fedhealth.secagg.client.credentials import SiteCredentials
from fedhealth.secagg.client.session import SiteSession
from fedhealth.secagg.primitives.layout import WEIGHT_ONE
from fedhealth.secagg.protocol.abandon import Abandonment, AbandonRequest
from fedhealth.secagg.protocol.history import HistoryLink, compute_history_start, verify_link
from fedhealth.secagg.protocol.messages import AttemptDescriptor, KeyAnnouncement, SurvivorSignature, UnmaskReply
from fedhealth.secagg.protocol.messages import MaskedUpload as Head
from fedhealth.secagg.protocol.statement import MAX_NOTICE_BYTES, StateStatement
from fedhealth.secagg.protocol.store import FileStore
from fedhealth.secagg.protocol.threshold import ThresholdPolicy
from fedhealth.secagg.protocol.weights import WeightScheme, compute_announced_weight
from fedhealth.site.egress_gate import TOWERS, ArrayRecordSchema, ConfigRecordSchema, ReplySchema
from fedhealth.site.policy import SiteLimits
from fedhealth.types import State

_SecretReply = KeyAnnouncement | Head | SurvivorSignature | UnmaskReply | Abandonment
_REPLIES: dict[str, tuple[str, Callable[[bytes, str], _SecretReply]]] = {
    HANDSHAKE: ("announcement", KeyAnnouncement.from_bytes),
    TRAIN: ("head", Head.from_bytes),
    EVALUATE: ("head", Head.from_bytes),
    DESCRIBE: ("head", Head.from_bytes),
    SIGN: ("answer", SurvivorSignature.from_bytes),
    UNMASK: ("answer", UnmaskReply.from_bytes),
    ABANDON: ("answer", Abandonment.from_bytes),
}


class SecureTransport:
    """Secure aggregation.

    Args:
        weights: how the site announces its training rows: `bucket` (powers of sqrt 2), `uniform` or `exact`.
        colluders: number of sites assumed to collude with the lead; null takes the default. This and the next two come
            from the job; the site's own limits hold as well, and of two numbers the stricter.
        min_honest: minimum number of honest contributions in a sum; null takes the default.
        min_sites: the smallest number of sites in a sum that this site takes part in.
        bits: per model value on the wire; the same at the lead.
        clipping_range: largest magnitude of one value in an update; the same at the lead.
        clamp_share: share of a layer's values that may exceed it and are clamped; the same at the lead.
        noise: `shared` if the sites share the noise of the sums; this and the next two are the same at the lead.
        noise_bits: per model value on the wire if they do.
        max_grad_norm: the clipping bound of one patient.
        sites: members of the run.

    """

    is_plaintext = False

    def __init__(
        self,
        weights: WeightScheme = "bucket",
        colluders: int | None = None,
        min_honest: int | None = None,
        min_sites: int = 3,
        bits: int = 32,
        clipping_range: float = 8.0,
        clamp_share: float = 0.0,
        noise: Literal["local", "shared"] | None = None,
        noise_bits: int = 24,
        max_grad_norm: float = 0.0,
        *,
        sites: Sequence[str],
    ) -> None:
        self.weights = weights
        self.settings = SumSettings(bits, clipping_range, clamp_share, noise, noise_bits, max_grad_norm)
        self.policy = ThresholdPolicy(colluders, min_honest, min_sites)
        self.sites = tuple(sites)

    def announce(
        self, run: RunContext, rows: Mapping[str, int], noise: tuple[float, float] = (0.0, 0.0)
    ) -> tuple[dict[str, float], RecordDict]:
        """Announce a new key, coarse weights and the least noise multipliers, signed with the site's identity key."""
        weights = {tower: compute_announced_weight(count, self.weights) for tower, count in rows.items()}
        session, _ = self._open_session(run)
        announcement = session.announce({SHARED: 0} | weights, noise)
        named = list(open_statement_book(run.site).list_known_statements())
        shown = {tower: weight / WEIGHT_ONE for tower, weight in weights.items()}
        return shown, RecordDict({SECAGG: ConfigRecord({"announcement": announcement, "shown": named})})

    def accept_attempt(
        self,
        run: RunContext,
        message: ParsedMessage,
        incoming: State,
        recorder: ReleaseRecorder,
        shapes: ReplyShapes,
        digest_initial: Callable[[], bytes],
    ) -> SecureAttempt:
        """Check the attempt against all rules of the protocol and record it as used."""
        (session, secrets), directive = self._open_session(run), message.directive
        descriptor = _read_message(message.content, "train")
        asked = AttemptDescriptor.from_bytes(descriptor)
        compare_attempt(message.kind, directive, asked)
        history = _read_history(session.me, run, message, digest_initial())
        model, task = digest_incoming(message, incoming), digest_task(message.kind, directive)
        history.check_request(asked, _digest_shown(incoming, model, history.is_start(asked.history)))
        plan = self.settings.plan_layout(shapes.update, shapes.statistics, session.me.thresholds, shapes.sensitivity)
        certificates = _read_list(message.content, "abandoned")
        derive_layout = partial(plan.build, threshold=asked.threshold)
        shown, envelopes = _read_list(message.content, "shown"), _read_envelopes(message.content)
        context = session.accept(descriptor, model, task, derive_layout, certificates, shown, envelopes)
        return SecureAttempt(session, secrets, context, run, recorder, history)

    def identify_reply(self, run: RunContext, content: RecordDict, recorder: ReleaseRecorder) -> Release:
        """Return the release of the stored words: those in the reply are masked."""
        return contributors.load_upload(self._secrets(run)).release

    def get_last_exchange(self, run: RunContext) -> int:
        """Return the last exchange in the journal."""
        session, _ = self._open_session(run)
        return session.exchange

    def handle_message(self, run: RunContext, message: ParsedMessage) -> RecordDict:
        """Reply to SIGN, UNMASK or ABANDON."""
        (session, secrets), request = self._open_session(run), _read_message(message.content, "message")
        if message.directive.exchange != _get_exchange(message.kind, request, session):
            raise SecureAggregationError("The request belongs to another exchange.", "Restart the run.")
        rule = ContributorRule(run, contributors.load_upload(secrets))
        if message.kind == SIGN:
            reply = session.sign_survivors(request, rule.check_sum)
        elif message.kind == UNMASK:
            reply = session.reply_unmask(request, rule.record_sum)
        else:
            reply = session.abandon_attempt(request)
        return RecordDict({SECAGG: ConfigRecord({"answer": reply})})

    def get_reply_schema(self, run: RunContext, kind: str, shapes: ReplyShapes) -> ReplySchema:
        """Return the schema: the protocol's messages, each decoded strictly, and masked segments of exact sizes."""
        members, segments = len(self.sites), len(TOWERS) + 2
        key, decode = _REPLIES[kind]
        max_bytes = 4096 + members * (512 + 64 * members * segments + 2 * MAX_NOTICE_BYTES)

        def is_genuine(value: object) -> bool:
            if not isinstance(value, bytes) or len(value) > max_bytes:
                return False
            try:
                return decode(value, run.site.name).site == run.site.name
            except SecureAggregationError:
                return False

        keys = {key: is_genuine} | ({"shown": _are_statements} if kind == HANDSHAKE else {})
        forms: dict[str, ArrayRecordSchema | ConfigRecordSchema] = {SECAGG: ConfigRecordSchema(keys)}
        if kind in DATA_KINDS:
            plan = self.settings.plan_layout(shapes.update, shapes.statistics, sensitivity=shapes.sensitivity)
            sizes = {segment.name: (segment.wire_bytes,) for segment in plan.build(())}
            forms[SEALED] = ArrayRecordSchema(sizes, "|u1")
        return forms

    def count_noise_shares(self, site: SiteContext) -> int:
        """Return the most honest sites that the noise of a sum can count on; 1 if each site adds its own noise."""
        if not self.settings.shares_noise:
            return 1
        roster = load_roster(site.folder)
        colluders = self._combine_policies(site.limits, len(roster.members)).colluders or 0
        return len(self.sites) - colluders

    def _combine_policies(self, own: SiteLimits, approved: int) -> ThresholdPolicy:
        """Return the stricter of the job's and the site's policy in every number."""
        return self.policy.combine(ThresholdPolicy(own.colluders, own.min_honest, own.min_sites), approved)

    def _open_session(self, run: RunContext) -> tuple[SiteSession, FileStore]:
        """Return the session, and the store of its secrets."""
        roster, digest = load_roster(run.site.folder), bytes.fromhex(run.digest)
        policy = self._combine_policies(run.site.limits, len(roster.members))
        identity = load_identity(run.site.keys)
        me = SiteCredentials(run.run, run.site.name, identity, roster, digest, policy, self.sites)
        journal = FileStore(run.site.folder / "secagg" / run.run)
        secrets = self._secrets(run)
        return SiteSession(me, journal, secrets, open_statement_book(run.site, identity)), secrets

    def _secrets(self, run: RunContext) -> FileStore:
        folder = make_secrets_folder(run.run, run.site.name, run.site.folder)
        return FileStore(folder)


def _get_exchange(kind: str, request: bytes, session: SiteSession) -> int:
    """Return the exchange that a request is about: the latest, or that of an attempt which may not have arrived."""
    train = AbandonRequest.from_bytes(request).train if kind == ABANDON else b""
    return AttemptDescriptor.from_bytes(train).exchange if train else session.exchange


def _are_statements(value: object) -> bool:
    """Return whether a value is a list of well-formed state statements."""
    try:
        return isinstance(value, list) and all(StateStatement.from_bytes(each, "") for each in value)
    except (SecureAggregationError, TypeError):
        return False


def _read_history(me: SiteCredentials, run: RunContext, message: ParsedMessage, initial_digest: bytes) -> HistoryBook:
    """Return the run's history, with the links of the message; each is verified once."""
    start = compute_history_start(me.run, me.config_digest, me.roster, initial_digest)
    book = HistoryBook(run.site.arrays, start, initial_digest)
    links = [HistoryLink.from_bytes(each) for each in _read_list(message.content, "links")]
    fresh = [link for link in links if not book.is_known(link.head)]
    for link in fresh:
        verify_link(link, me.run, me.config_digest, me.roster, me.run_members, me.thresholds.threshold)
    book.extend(fresh)
    return book


def _digest_shown(incoming: State, digest: bytes, is_start: bool) -> bytes:
    """Return the SHA-256 of the incoming arrays; at the start of the model's only, as a method's own are the lead's."""
    chosen = {name: array for name, array in incoming.items() if not (is_start and name.startswith(METHOD))}
    return digest if len(chosen) == len(incoming) else digest_arrays(chosen)


def _read_list(content: RecordDict, key: str) -> list[bytes]:
    """Return a list of messages of the protocol: certificates of abandoned attempts, or links of the history."""
    found = get_config_record(content, SECAGG).get(key, [])
    return [each for each in found if isinstance(each, bytes)] if isinstance(found, list) else []


def _read_envelopes(content: RecordDict) -> bytes:
    """Return what the others sealed to this site in the attempt before; empty where the lead sends nothing."""
    found = get_config_record(content, SECAGG).get("envelopes", b"")
    return found if isinstance(found, bytes) else b""


def _read_message(content: RecordDict, key: str) -> bytes:
    value = get_config_record(content, SECAGG).get(key) if SECAGG in content else None
    if not isinstance(value, bytes):
        raise SecureAggregationError(f"The lead sent no {key} message.", "Use secagg=on at lead and sites.")
    return value
