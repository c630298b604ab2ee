"""Secure aggregation at the site: replies are masked and are unmasked only as part of a large enough sum.

The protocol and its rules are in `fedhealth.secagg`; this module runs one site's session. Journal and keys are on disk
and outlive the process that handles a message, so nothing is kept in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from flwr.app import ConfigRecord, RecordDict

from clients.context import RunContext
from clients.message import ParsedMessage
from clients.release import Release, ReleaseRecorder
from clients.request_check import compare_attempt
from clients.statements import open_statement_book
from clients.transport.base import ReplyShapes, compute_request_digest
from fedhealth.consortium.identity import load_identity, load_roster, make_secrets_folder
from fedhealth.errors import ModelError, SecureAggregationError
from fedhealth.models.modality_keys import SHARED
from fedhealth.models.sum_layout import SumSettings
from fedhealth.protocol.array_codec import pack_arrays
from fedhealth.protocol.messages import (
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
from fedhealth.secagg.client.client_protocol import SiteCredentials
from fedhealth.secagg.client.quantized_store import QuantizedUpdate
from fedhealth.secagg.client.session import SiteSession
from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.primitives.layout import WEIGHT_ONE
from fedhealth.secagg.protocol.context import AttemptContext
from fedhealth.secagg.protocol.messages import AttemptDescriptor, KeyAnnouncement, SurvivorSignature, UnmaskReply
from fedhealth.secagg.protocol.messages import MaskedUpload as Head
from fedhealth.secagg.protocol.statement import MAX_NOTICE_BYTES
from fedhealth.secagg.protocol.store import FileStore, StateStore
from fedhealth.secagg.protocol.threshold import ThresholdPolicy
from fedhealth.secagg.protocol.weights import WeightScheme, compute_announced_weight
from fedhealth.site.egress_gate import TOWERS, ArrayRecordSchema, ConfigRecordSchema, ReplySchema
from fedhealth.types import State

_REPLIES: dict[str, tuple[str, Callable[[bytes, str], KeyAnnouncement | Head | SurvivorSignature | UnmaskReply]]] = {
    HANDSHAKE: ("announcement", KeyAnnouncement.from_bytes),
    TRAIN: ("head", Head.from_bytes),
    EVALUATE: ("head", Head.from_bytes),
    DESCRIBE: ("head", Head.from_bytes),
    SIGN: ("answer", SurvivorSignature.from_bytes),
    UNMASK: ("answer", UnmaskReply.from_bytes),
}
_REPLY_TO = "kept-for"  # the request that the stored quantized update replies to, and its release


class SecureAttempt:
    """One accepted attempt; its masks can be used once."""

    def __init__(
        self,
        session: SiteSession,
        secrets: StateStore,
        context: AttemptContext,
        site: str,
        request_digest: str,
        recorder: ReleaseRecorder,
    ) -> None:
        self._session, self._secrets, self._context = session, secrets, context
        self._request_digest, self.recorder = request_digest, recorder
        self._owned = {segment.name: segment for segment in context.owned_segments(site)}

    def is_aggregated(self, tower: str) -> bool:
        """Return whether enough sites train the tower for it to be summed, with or without this site."""
        return any(segment.tower == tower and segment.kind == "model" for segment in self._context.layout)

    def load_cached_reply(self) -> RecordDict | None:
        """Mask the stored update again if an earlier attempt at this request failed; unmasked ones are deleted."""
        quantized = self._session.load_quantized()
        request_digest, release = _load_release(self._secrets)
        if quantized is None or request_digest != self._request_digest:
            return None
        digests = {name: digest for name, (digest, _, _) in quantized.segments.items()}
        if digests != {name: segment.digest for name, segment in self._owned.items()}:
            return None  # another cohort has another layout
        if not self.recorder.confirm(release):
            self._session.delete_quantized()
            return None
        return self._mask(quantized)

    def build_reply(self, update: State, statistics: Mapping[str, np.ndarray], release: Release) -> RecordDict:
        """Quantize, store, record the release and mask; statistics that may not leave are sent as zeros."""
        vectors: dict[str, dict[str, np.ndarray]] = {}
        for segment in self._owned.values():
            values = update if segment.kind == "model" else statistics
            vectors[segment.name] = {
                entry.name: np.asarray(values.get(entry.name, np.zeros(entry.length, np.int64))).reshape(-1)
                for entry in segment.entries
            }
        try:
            quantized = self._session.quantize(self._context, vectors)
        except ProtocolViolationError as fault:  # about the site's own values, not about the lead's request
            raise ModelError(fault.problem, fault.advice) from fault
        self._secrets.delete(_REPLY_TO)  # a crash must not leave the new words with the release of the old ones
        self._session.save_quantized(quantized)
        self._secrets.put(_REPLY_TO, json.dumps([self._request_digest, release.dumps()]).encode())
        self.recorder.record(release)
        return self._mask(quantized)

    def _mask(self, quantized: QuantizedUpdate) -> RecordDict:
        head, masked = self._session.mask_upload(self._context, quantized)
        return RecordDict({SECAGG: ConfigRecord({"head": head}), SEALED: pack_arrays(dict(masked))})


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
        *,
        sites: Sequence[str],
    ) -> None:
        self.weights = weights
        self.settings = SumSettings(bits, clipping_range, clamp_share)
        self.policy = ThresholdPolicy(colluders, min_honest, min_sites)
        self.sites = tuple(sites)

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
        shapes: ReplyShapes,
    ) -> SecureAttempt:
        """Check the attempt against all rules of the protocol and record it as used."""
        session, directive = self._session(run), message.directive
        descriptor = _read_message(message.content, "train")
        compare_attempt(directive, AttemptDescriptor.from_bytes(descriptor))
        model, task = digest_arrays(incoming), digest_task(message.kind, directive)
        plan = self.settings.plan_layout(shapes.update, shapes.statistics)
        context = session.accept(descriptor, model, task, plan.build)
        request_digest = compute_request_digest(run, message, incoming)
        return SecureAttempt(session, self._secrets(run), context, run.site.name, request_digest, recorder)

    def identify_reply(self, run: RunContext, content: RecordDict, recorder: ReleaseRecorder) -> Release:
        """Return the release of the stored words: those in the reply are masked."""
        return _load_release(self._secrets(run))[1]

    def get_last_exchange(self, run: RunContext) -> int:
        """Return the last exchange in the journal."""
        return self._session(run).exchange

    def handle_message(self, run: RunContext, message: ParsedMessage) -> RecordDict:
        """Reply to SIGN or UNMASK."""
        session = self._session(run)
        if message.directive.exchange != session.exchange:
            raise SecureAggregationError("The request belongs to another exchange.", "Restart the run.")
        steps = {SIGN: session.sign_survivors, UNMASK: session.reply_unmask}
        reply = steps[message.kind](_read_message(message.content, "message"))
        return RecordDict({SECAGG: ConfigRecord({"answer": reply})})

    def get_reply_schema(self, run: RunContext, kind: str, shapes: ReplyShapes) -> ReplySchema:
        """Return the schema: the protocol's messages, each decoded strictly, and masked segments of exact sizes."""
        plan = self.settings.plan_layout(shapes.update, shapes.statistics)
        sizes = {segment.name: segment.wire_bytes for segment in plan.build(())}
        members, segments = len(self.sites), len(TOWERS) + 1
        key, decode = _REPLIES[kind]
        max_bytes = 4096 + members * (512 + 64 * members * segments + 2 * MAX_NOTICE_BYTES)

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
        roster, digest, own = load_roster(run.site.folder), bytes.fromhex(run.digest), run.site.limits
        site = ThresholdPolicy(own.colluders, own.min_honest, own.min_sites)
        policy = self.policy.combine(site, len(roster.members))
        identity = load_identity(run.site.keys)
        me = SiteCredentials(run.run, run.site.name, identity, roster, digest, policy, self.sites)
        journal = FileStore(run.site.folder / "secagg" / run.run)
        return SiteSession(me, journal, self._secrets(run), open_statement_book(run.site))

    def _secrets(self, run: RunContext) -> FileStore:
        return FileStore(make_secrets_folder(run.run, run.site.name, run.site.folder))


def _load_release(secrets: StateStore) -> tuple[str, Release]:
    """Return the request that the stored words reply to, and their release; empty if there are none."""
    found = secrets.get(_REPLY_TO)
    if found is None:
        return "", Release()
    request_digest, release = json.loads(found)
    return request_digest, Release.loads(release)


def _read_message(content: RecordDict, key: str) -> bytes:
    value = get_config_record(content, SECAGG).get(key) if SECAGG in content else None
    if not isinstance(value, bytes):
        raise SecureAggregationError(f"The lead sent no {key} message.", "Use secagg=on at lead and sites.")
    return value
