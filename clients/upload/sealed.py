"""Secure aggregation at the site: what leaves is masked, and is opened only as part of a large enough sum.

The protocol and its rules are `fedhealth.secagg`; this drives one site's session. Journal and keys outlive the
process that answers a message, so nothing here is kept in memory.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flwr.app import ConfigRecord, RecordDict

from clients.upload.contract import Seat, question_of
from fedhealth.errors import SecureAggregationError
from fedhealth.secagg.context import Context
from fedhealth.secagg.kept import Quantised
from fedhealth.secagg.layout import WEIGHT_ONE
from fedhealth.secagg.site import Membership
from fedhealth.secagg.site_session import SiteSession
from fedhealth.secagg.store import FileStore, Store
from fedhealth.secagg.threshold import Policy
from fedhealth.secagg.weights import Scheme, announced_weight
from fedhealth.site.identity import load_identity, load_roster, secrets_folder
from fedhealth.training.state import State
from fedhealth.training.towers import SHARED
from fedhealth.wire import SEALED, SECAGG, SIGN, UNMASK, Directive, digest_of, pack, task_digest, words_in

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

    """

    def __init__(
        self,
        weights: Scheme = "bucket",
        colluders: int | None = None,
        min_honest: int | None = None,
        min_sites: int = 3,
    ) -> None:
        self.weights = weights
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

    def _session(self, seat: Seat) -> SiteSession:
        roster, digest = load_roster(seat.folder), bytes.fromhex(seat.digest)
        me = Membership(seat.run, seat.site, load_identity(seat.folder), roster, digest, self.policy)
        return SiteSession(me, FileStore(seat.folder / "secagg" / seat.run), self._secrets(seat))

    def _secrets(self, seat: Seat) -> FileStore:
        return FileStore(secrets_folder(seat.run, seat.site, seat.folder))


def _message(content: RecordDict, key: str) -> bytes:
    value = words_in(content, SECAGG).get(key) if SECAGG in content else None
    if not isinstance(value, bytes):
        raise SecureAggregationError(f"The lead sent no {key} message.", "Use secagg=on at lead and sites.")
    return value
