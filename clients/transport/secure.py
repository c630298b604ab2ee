"""Secure aggregation at the site: replies are masked and are unmasked only as part of a large enough sum.

The protocol and its rules are in `fedhealth.secagg`; this module runs one site's session. Journal and keys are on disk
and outlive the process that handles a message, so nothing is kept in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from flwr.app import ConfigRecord, RecordDict

from clients.context import RunContext
from clients.message import ParsedMessage
from clients.release import Release, ReleaseRecorder
from clients.transport import contributors
from clients.transport.contributors import ContributorRule
from clients.transport.history import HistoryBook
from clients.transport.secure_attempt import SecureAttempt
from fedhealth.consortium.identity import get_secrets_folder, load_identity, load_roster
from fedhealth.errors import SecureAggregationError
from fedhealth.models.modality_keys import METHOD, SHARED, get_tower
from fedhealth.protocol.messages import (
    ABANDON,
    DESCRIBE,
    EVALUATE,
    HANDSHAKE,
    PURPOSES,
    SEALED,
    SECAGG,
    SIGN,
    STATISTICS,
    TRAIN,
    UNMASK,
    digest_arrays,
    digest_task,
    get_config_record,
)
from fedhealth.secagg.client.client_protocol import SiteCredentials
from fedhealth.secagg.client.session import SiteSession
from fedhealth.secagg.primitives.layout import WEIGHT_ONE, VectorSpec, make_model_segment, make_statistics_segment
from fedhealth.secagg.protocol.abandon import Abandonment
from fedhealth.secagg.protocol.history import HistoryLink, compute_history_start, verify_link
from fedhealth.secagg.protocol.messages import AttemptDescriptor, KeyAnnouncement, SurvivorSignature, UnmaskReply
from fedhealth.secagg.protocol.messages import MaskedUpload as Head
from fedhealth.secagg.protocol.store import FileStore
from fedhealth.secagg.protocol.threshold import ThresholdPolicy, compute_thresholds
from fedhealth.secagg.protocol.vector_name import VectorName
from fedhealth.secagg.protocol.weights import WeightScheme, compute_announced_weight
from fedhealth.site.egress_gate import ArrayRecordSchema, ConfigRecordSchema, ReplySchema, Shapes
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
        colluders: number of sites assumed to collude with the lead; null takes (n - 1) // 3.
        min_honest: minimum number of honest contributions in a sum; null takes 3 (2 up to five sites).
        min_sites: the smallest number of sites in a sum that this site takes part in.
        bits: per model value on the wire; the same at the lead.

    """

    is_plaintext = False

    def __init__(
        self,
        weights: WeightScheme = "bucket",
        colluders: int | None = None,
        min_honest: int | None = None,
        min_sites: int = 3,
        bits: int = 32,
    ) -> None:
        self.weights = weights
        self.bits = bits
        self.policy = ThresholdPolicy(colluders, min_honest, min_sites)

    def announce(self, run: RunContext, rows: Mapping[str, int]) -> tuple[dict[str, float], RecordDict]:
        """Announce a new key and coarse weights, signed with the site's identity key."""
        weights = {tower: compute_announced_weight(count, self.weights) for tower, count in rows.items()}
        announcement = self._session(run).announce({SHARED: 0} | weights)
        shown = {tower: weight / WEIGHT_ONE for tower, weight in weights.items()}
        return shown, RecordDict({SECAGG: ConfigRecord({"announcement": announcement})})

    def accept_attempt(
        self,
        run: RunContext,
        message: ParsedMessage,
        incoming: State,
        recorder: ReleaseRecorder,
        digest_initial: Callable[[], bytes],
    ) -> SecureAttempt:
        """Check the attempt against all rules of the protocol and record it as used."""
        session, directive = self._session(run), message.directive
        descriptor = _read_message(message.content, "train")
        asked = AttemptDescriptor.from_bytes(descriptor)
        vector = VectorName(PURPOSES[message.kind], directive.round, directive.repetition)
        if (asked.exchange, asked.vector) != (directive.exchange, vector):
            raise SecureAggregationError("The lead names two exchanges or two vectors at once.", "Restart the run.")
        history = self._read_history(run, message, digest_initial())
        history.check_request(asked, _digest_shown(incoming, history.is_start(asked.history)))
        certificates = _read_list(message.content, "abandoned")
        task = digest_task(message.kind, directive)
        context = session.accept(descriptor, digest_arrays(incoming), task, certificates)
        return SecureAttempt(session, self._secrets(run), context, run, recorder, history)

    def _read_history(self, run: RunContext, message: ParsedMessage, initial_digest: bytes) -> HistoryBook:
        """Return the run's history, with the links of the message; each is verified once."""
        roster, digest = load_roster(run.site.folder), bytes.fromhex(run.digest)
        start = compute_history_start(run.run, digest, roster, initial_digest)
        book = HistoryBook(run.site.arrays, start, initial_digest)
        links = [HistoryLink.from_bytes(each) for each in _read_list(message.content, "links")]
        fresh = [link for link in links if not book.is_known(link.head)]
        for link in fresh:
            threshold = compute_thresholds(len(link.descriptor.base), self.policy).threshold
            verify_link(link, run.run, digest, roster, threshold)
        book.extend(fresh)
        return book

    def identify_reply(self, run: RunContext, content: RecordDict, recorder: ReleaseRecorder) -> Release:
        """Return the release of the stored words: those in the reply are masked."""
        return contributors.load_upload(self._secrets(run)).release

    def get_last_exchange(self, run: RunContext) -> int:
        """Return the last exchange in the journal."""
        return self._session(run).exchange

    def handle_message(self, run: RunContext, message: ParsedMessage) -> RecordDict:
        """Reply to SIGN, UNMASK or ABANDON."""
        session, request = self._session(run), _read_message(message.content, "message")
        rule = ContributorRule(run, contributors.load_upload(self._secrets(run)), self.policy)
        if message.kind == SIGN:
            reply = session.sign_survivors(request, rule.check_sum)
        elif message.kind == UNMASK:
            reply = session.reply_unmask(request, rule.record_sum)
        else:
            reply = session.abandon_attempt(request)
        return RecordDict({SECAGG: ConfigRecord({"answer": reply})})

    def get_reply_schema(self, run: RunContext, kind: str, update: Shapes, statistics: Shapes) -> ReplySchema:
        """Return the schema: the protocol's messages, each decoded strictly, and masked segments of exact sizes."""
        sizes = compute_segment_sizes(update if kind == TRAIN else {}, statistics, self.bits)
        members, segments = len(load_roster(run.site.folder).members), len({get_tower(name) for name in update}) + 1
        key, decode = _REPLIES[kind]
        max_bytes = 4096 + members * (512 + 64 * members * segments)

        def is_genuine(value: object) -> bool:
            if not isinstance(value, bytes) or len(value) > max_bytes:
                return False
            try:
                return decode(value, run.site.name).site == run.site.name
            except SecureAggregationError:
                return False

        forms: dict[str, ArrayRecordSchema | ConfigRecordSchema] = {SECAGG: ConfigRecordSchema({key: is_genuine})}
        if kind in (TRAIN, EVALUATE, DESCRIBE):
            forms[SEALED] = ArrayRecordSchema({name: (size,) for name, size in sizes.items()}, "|u1")
        return forms

    def _session(self, run: RunContext) -> SiteSession:
        roster, digest = load_roster(run.site.folder), bytes.fromhex(run.digest)
        me = SiteCredentials(run.run, run.site.name, load_identity(run.site.keys), roster, digest, self.policy)
        return SiteSession(me, FileStore(run.site.folder / "secagg" / run.run), self._secrets(run))

    def _secrets(self, run: RunContext) -> FileStore:
        return FileStore(get_secrets_folder(run.run, run.site.name, run.site.folder))


def compute_segment_sizes(update: Shapes, statistics: Shapes, bits: int) -> dict[str, int]:
    """Return the size in bytes of each masked segment on the wire; it depends on the shapes only."""
    layers: dict[str, dict[str, int]] = {}
    for name, shape in update.items():
        layers.setdefault(get_tower(name), {})[name] = math.prod(shape)
    segments = [
        make_model_segment(tower, tower, lengths, bound=1.0, bits=bits, sites=1, normaliser=1)
        for tower, lengths in layers.items()
    ]
    if entries := tuple(VectorSpec(name, math.prod(shape), 1.0, 1.0) for name, shape in statistics.items()):
        segments.append(make_statistics_segment(STATISTICS, SHARED, entries, sites=1))
    return {segment.name: segment.wire_bytes for segment in segments}


def _digest_shown(incoming: State, is_start: bool) -> bytes:
    """Return the SHA-256 of the incoming arrays; at the start of the model's only, as a method's own are the lead's."""
    chosen = {name: array for name, array in incoming.items() if not (is_start and name.startswith(METHOD))}
    return digest_arrays(chosen)


def _read_list(content: RecordDict, key: str) -> list[bytes]:
    """Return a list of messages of the protocol: certificates of abandoned attempts, or links of the history."""
    found = get_config_record(content, SECAGG).get(key, [])
    return [each for each in found if isinstance(each, bytes)] if isinstance(found, list) else []


def _read_message(content: RecordDict, key: str) -> bytes:
    value = get_config_record(content, SECAGG).get(key) if SECAGG in content else None
    if not isinstance(value, bytes):
        raise SecureAggregationError(f"The lead sent no {key} message.", "Use secagg=on at lead and sites.")
    return value
