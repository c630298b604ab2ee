"""Secure aggregation at the site: what leaves is masked, and is opened only as part of a large enough sum.

The protocol and its rules are `fedhealth.secagg`; this drives one site's session. Journal and keys outlive the
process that answers a message, so nothing here is kept in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from flwr.app import ConfigRecord, RecordDict

from clients.transport.base import Seat, question_of
from fedhealth.consortium.identity import load_identity, load_roster, secrets_folder
from fedhealth.errors import SecureAggregationError
from fedhealth.models.modality_keys import SHARED, tower_of
from fedhealth.protocol.array_codec import pack
from fedhealth.protocol.messages import (
    DESCRIBE,
    EVALUATE,
    HANDSHAKE,
    SEALED,
    SECAGG,
    SIGN,
    STATISTICS,
    TRAIN,
    UNMASK,
    Directive,
    digest_of,
    task_digest,
    words_in,
)
from fedhealth.secagg.client.client_protocol import Membership
from fedhealth.secagg.client.quantised_store import Quantised
from fedhealth.secagg.client.session import SiteSession
from fedhealth.secagg.protocol.context import Context
from fedhealth.secagg.protocol.layout import WEIGHT_ONE, Entry, model_segment, statistics_segment
from fedhealth.secagg.protocol.messages import Announcement, Answer, Endorsement
from fedhealth.secagg.protocol.messages import Upload as Head
from fedhealth.secagg.protocol.store import FileStore, Store
from fedhealth.secagg.protocol.threshold import Policy
from fedhealth.secagg.protocol.weights import Scheme, announced_weight
from fedhealth.site.egress_gate import ArraysForm, Outgoing, Shapes, WordsForm
from fedhealth.types import State

_ANSWERS: dict[str, tuple[str, Callable[[bytes, str], Announcement | Head | Endorsement | Answer]]] = {
    HANDSHAKE: ("announcement", Announcement.from_bytes),
    TRAIN: ("head", Head.from_bytes),
    EVALUATE: ("head", Head.from_bytes),
    DESCRIBE: ("head", Head.from_bytes),
    SIGN: ("answer", Endorsement.from_bytes),
    UNMASK: ("answer", Answer.from_bytes),
}
_KEPT_FOR = "kept-for"  # the question that the kept words answer


class SealedTicket:
    """One accepted attempt; the burned masks can be used once."""

    def __init__(self, session: SiteSession, secrets: Store, context: Context, site: str, question: str) -> None:
        self._session, self._secrets, self._context = session, secrets, context
        self._question = question.encode()
        self._owned = {segment.name: segment for segment in context.owned(site)}

    def sums(self, tower: str) -> bool:
        """Return whether enough sites train the tower for it to be summed, this one among them or not."""
        return any(segment.tower == tower and segment.kind == "model" for segment in self._context.layout)

    def kept(self) -> RecordDict | None:
        """Mask the kept words again if an earlier attempt at this question failed; opened ones are forgotten."""
        quantised = self._session.kept()
        if quantised is None or self._secrets.read(_KEPT_FOR) != self._question:
            return None
        digests = {name: digest for name, (digest, _, _) in quantised.segments.items()}
        if digests != {name: segment.digest for name, segment in self._owned.items()}:
            return None  # another cohort has another layout
        return self._mask(quantised)

    def seal(self, update: State, statistics: Mapping[str, np.ndarray]) -> RecordDict:
        """Quantise, keep, mask. A statistic that may not leave is zero."""
        vectors: dict[str, dict[str, np.ndarray]] = {}
        for segment in self._owned.values():
            values = update if segment.kind == "model" else statistics
            vectors[segment.name] = {
                entry.name: np.asarray(values.get(entry.name, np.zeros(entry.length, np.int64))).reshape(-1)
                for entry in segment.entries
            }
        quantised = self._session.quantise(self._context, vectors)
        self._session.keep(quantised)
        self._secrets.write(_KEPT_FOR, self._question)
        return self._mask(quantised)

    def _mask(self, quantised: Quantised) -> RecordDict:
        head, masked = self._session.upload(self._context, quantised)
        return RecordDict({SECAGG: ConfigRecord({"head": head}), SEALED: pack(dict(masked))})


class SealedUpload:
    """Secure aggregation.

    Args:
        weights: how the site's training rows are announced: `bucket` (powers of sqrt 2), `uniform` or `exact`.
        colluders: sites assumed to collude with the lead; null takes (n - 1) // 3.
        min_honest: honest contributions that must hide each other; null takes 3 (2 up to five sites).
        min_sites: smallest sum this site takes part in.
        bits: on the wire for each value of the model, as the lead has it.

    """

    alone = False

    def __init__(
        self,
        weights: Scheme = "bucket",
        colluders: int | None = None,
        min_honest: int | None = None,
        min_sites: int = 3,
        bits: int = 32,
    ) -> None:
        self.weights = weights
        self.bits = bits
        self.policy = Policy(colluders, min_honest, min_sites)

    def join(self, seat: Seat, rows: Mapping[str, int]) -> tuple[dict[str, float], RecordDict]:
        """Announce a fresh key and coarse weights, signed by the site's identity."""
        weights = {tower: announced_weight(count, self.weights) for tower, count in rows.items()}
        announcement = self._session(seat).announce({SHARED: 0} | weights)
        shown = {tower: weight / WEIGHT_ONE for tower, weight in weights.items()}
        return shown, RecordDict({SECAGG: ConfigRecord({"announcement": announcement})})

    def accept(self, seat: Seat, kind: str, directive: Directive, incoming: State, content: RecordDict) -> SealedTicket:
        """Check the attempt against every rule of the protocol and burn it."""
        session = self._session(seat)
        message = _message(content, "train")
        context = session.accept(message, digest_of(incoming), task_digest(kind, directive))
        if context.directive.exchange != directive.exchange:
            raise SecureAggregationError("The lead names two exchanges at once.", "Restart the run.")
        question = question_of(seat, kind, directive, incoming)
        return SealedTicket(session, self._secrets(seat), context, seat.site, question)

    def last_exchange(self, seat: Seat) -> int:
        """Return the journal's."""
        return self._session(seat).exchange

    def answer(self, seat: Seat, kind: str, content: RecordDict) -> RecordDict:
        """Answer SIGN or UNMASK."""
        session = self._session(seat)
        steps = {SIGN: session.sign, UNMASK: session.unmask}
        answer = steps[kind](_message(content, "message"))
        return RecordDict({SECAGG: ConfigRecord({"answer": answer})})

    def outgoing(self, seat: Seat, kind: str, update: Shapes, statistics: Shapes) -> Outgoing:
        """Return the protocol's messages, each decoded strictly, and masked segments of exactly these sizes."""
        sizes = segment_sizes(update if kind == TRAIN else {}, statistics, self.bits)
        members, segments = len(load_roster(seat.folder).members), len({tower_of(name) for name in update}) + 1
        key, decode = _ANSWERS[kind]
        most = 4096 + members * (512 + 64 * members * segments)

        def genuine(value: object) -> bool:
            if not isinstance(value, bytes) or len(value) > most:
                return False
            try:
                return decode(value, seat.site).site == seat.site
            except SecureAggregationError:
                return False

        forms: dict[str, ArraysForm | WordsForm] = {SECAGG: WordsForm({key: genuine})}
        if kind in (TRAIN, EVALUATE, DESCRIBE):
            forms[SEALED] = ArraysForm({name: (size,) for name, size in sizes.items()}, "|u1")
        return forms

    def _session(self, seat: Seat) -> SiteSession:
        roster, digest = load_roster(seat.folder), bytes.fromhex(seat.digest)
        me = Membership(seat.run, seat.site, load_identity(seat.keys), roster, digest, self.policy)
        return SiteSession(me, FileStore(seat.folder / "secagg" / seat.run), self._secrets(seat))

    def _secrets(self, seat: Seat) -> FileStore:
        return FileStore(secrets_folder(seat.run, seat.site, seat.folder))


def segment_sizes(update: Shapes, statistics: Shapes, bits: int) -> dict[str, int]:
    """Return the bytes of every masked segment on the wire: they depend on shapes and nothing else."""
    layers: dict[str, dict[str, int]] = {}
    for name, shape in update.items():
        layers.setdefault(tower_of(name), {})[name] = math.prod(shape)
    segments = [
        model_segment(tower, tower, lengths, bound=1.0, bits=bits, sites=1, normaliser=1)
        for tower, lengths in layers.items()
    ]
    if entries := tuple(Entry(name, math.prod(shape), 1.0, 1.0) for name, shape in statistics.items()):
        segments.append(statistics_segment(STATISTICS, SHARED, entries, sites=1))
    return {segment.name: segment.wire_bytes for segment in segments}


def _message(content: RecordDict, key: str) -> bytes:
    value = words_in(content, SECAGG).get(key) if SECAGG in content else None
    if not isinstance(value, bytes):
        raise SecureAggregationError(f"The lead sent no {key} message.", "Use secagg=on at lead and sites.")
    return value
