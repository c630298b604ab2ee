"""Send the update and the statistics as they are: the lead sees each site's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flwr.app import RecordDict
from safetensors import safe_open
from safetensors.numpy import save

from clients.transport.base import Seat, question_of
from fedhealth.errors import SecureAggregationError
from fedhealth.protocol.array_codec import pack
from fedhealth.protocol.messages import DESCRIBE, EVALUATE, STATISTICS, TRAIN, UPDATE, Directive
from fedhealth.site.egress_gate import ArraysForm, Outgoing, Shapes
from fedhealth.types import State
from fedhealth.utils.atomic_io import write_atomic

_ANSWER = "answer.safetensors"


class PlainTicket:
    """Everything goes into the sum, in the open.

    Args:
        path: where the last answer is kept.
        question: the digest of what is asked.

    """

    def __init__(self, path: Path, question: str) -> None:
        self._path, self._question = path, question

    def sums(self, tower: str) -> bool:
        """Return True."""
        return True

    def kept(self) -> RecordDict | None:
        """Return the last answer if it was to the same question."""
        if not self._path.is_file():
            return None
        with safe_open(self._path, framework="numpy") as file:
            if (file.metadata() or {}).get("question") != self._question:
                return None
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        return _records(_under(UPDATE, arrays), _under(STATISTICS, arrays))

    def seal(self, update: State, statistics: Mapping[str, np.ndarray]) -> RecordDict:
        """Keep the answer and return its records."""
        parts = {UPDATE: update, STATISTICS: statistics}
        arrays = {f"{part}/{name}": array for part, named in parts.items() for name, array in named.items()}
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(self._path, save(arrays, {"question": self._question}))
        return _records(update, dict(statistics))


def _records(update: State, statistics: State) -> RecordDict:
    answer = RecordDict({STATISTICS: pack(statistics)})
    if update:
        answer[UPDATE] = pack(update)
    return answer


def _under(part: str, arrays: State) -> State:
    return {name.removeprefix(f"{part}/"): a for name, a in arrays.items() if name.startswith(f"{part}/")}


class PlainUpload:
    """No secure aggregation."""

    alone = True

    def join(self, seat: Seat, rows: Mapping[str, int]) -> tuple[dict[str, float], RecordDict]:
        """Announce exact counts."""
        return {tower: float(count) for tower, count in rows.items()}, RecordDict()

    def accept(self, seat: Seat, kind: str, directive: Directive, incoming: State, content: RecordDict) -> PlainTicket:
        """Agree to anything: the lead sees everything in any case."""
        return PlainTicket(seat.arrays / _ANSWER, question_of(seat, kind, directive, incoming))

    def last_exchange(self, seat: Seat) -> int:
        """Return 0: nothing depends on it."""
        return 0

    def answer(self, seat: Seat, kind: str, content: RecordDict) -> RecordDict:
        """Refuse: this site runs without secure aggregation."""
        raise SecureAggregationError("This run has no secure aggregation.", "Use secagg=on at lead and sites.")

    def outgoing(self, seat: Seat, kind: str, update: Shapes, statistics: Shapes) -> Outgoing:
        """Return the update and the statistics, as they are."""
        forms: dict[str, ArraysForm] = {}
        if kind in (TRAIN, EVALUATE, DESCRIBE):
            forms[STATISTICS] = ArraysForm(statistics, "<i8")
        if kind == TRAIN:
            forms[UPDATE] = ArraysForm(update, "<f4")
        return forms
