"""Sites that go wrong, on a grid in this process: what they answer, when, and how often, as a plan says."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedhealth.flower.in_process_grid import InProcessGrid
from fedhealth.protocol.array_codec import PACKED, SERIAL, pack_arrays
from fedhealth.protocol.count_codec import pack_counts, unpack_counts
from fedhealth.protocol.messages import SEALED, SECAGG, STATISTICS, UPDATE, Directive, build_error_reply
from fedhealth.training import trainer

Plan = Callable[[Directive, str, str], str]
"""plan(directive, site, kind): the name of the fault of one answer; empty for none."""


class UnreliableGrid(InProcessGrid):
    """A local grid whose sites follow a plan of faults."""

    def __init__(self, *about: Any, plan: Plan) -> None:
        super().__init__(*about)
        self._plan = plan
        self._late: list[Message] = []
        self._due: list[Message] = []
        self._last: dict[tuple[str, str], RecordDict] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Begin an exchange: what came too late for the last one arrives in this one."""
        self._due, self._late = self._due + self._late, []
        return super().push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Yield answers, the late ones of earlier exchanges first."""
        due, self._due = self._due, []
        yield from due
        for message_id in message_ids:
            if message := self._pushed.pop(message_id, None):
                site = str(self._contexts[message.metadata.dst_node_id].node_config["site"])
                kind = message.metadata.message_type
                fault = self._plan(Directive.parse(message.content), site, kind) if message.content else ""
                yield from getattr(self, f"_{fault or 'sound'}")(message, (site, kind))

    def _sound(self, message: Message, asked: tuple[str, str]) -> Iterable[Message]:
        (reply,) = self._compute_replies([(message, self._contexts[message.metadata.dst_node_id])])
        if reply.has_content():
            self._last[asked] = reply.content
        yield reply

    def _declines(self, message: Message, asked: tuple[str, str]) -> Iterable[Message]:
        """No answer, said at once: what a round without this site looks like."""
        yield build_error_reply(RuntimeError("gone"), message)

    def _late_(self, message: Message, asked: tuple[str, str]) -> Iterable[Message]:
        self._late += self._sound(message, asked)
        return ()

    def _twice(self, message: Message, asked: tuple[str, str]) -> Iterable[Message]:
        for reply in self._sound(message, asked):
            yield reply
            yield reply

    def _raises(self, message: Message, asked: tuple[str, str]) -> Iterable[Message]:
        """The real application, with a bug in the middle of its work."""

        def bug(*about: object) -> None:
            raise RuntimeError("patient 4711 has a bad row")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainer, "compute_row_losses", bug)
            yield from self._sound(message, asked)

    def _garbage(self, message: Message, asked: tuple[str, str]) -> Iterable[Message]:
        noise = Array("uint8", (64,), SERIAL, bytes(range(64)))
        torn = Array("float32", (2, 2), "numpy.ndarray", b"\x93NUMPY of a kind")
        records = {
            UPDATE: ArrayRecord({PACKED: noise}),
            STATISTICS: ArrayRecord({"loss": torn}),
            SEALED: ArrayRecord({PACKED: noise}),
            SECAGG: ConfigRecord({"head": b"\x00" * 40, "answer": b"\x00" * 40, "announcement": b"\x01"}),
            "patients": MetricRecord({"count": 7}),
        }
        yield Message(RecordDict(records), reply_to=message)

    def _empty(self, message: Message, asked: tuple[str, str]) -> Iterable[Message]:
        yield Message(RecordDict(), reply_to=message)

    def _nan(self, message: Message, asked: tuple[str, str]) -> Iterable[Message]:
        def spoilt(name: str, array: np.ndarray) -> np.ndarray:
            return np.full_like(array, np.nan) if array.dtype.kind == "f" else array[:-1]

        yield from self._changed(message, asked, spoilt)

    def _shapes(self, message: Message, asked: tuple[str, str]) -> Iterable[Message]:
        yield from self._changed(message, asked, lambda name, array: np.concatenate([array.ravel()] * 2))

    def _counts(self, message: Message, asked: tuple[str, str]) -> Iterable[Message]:
        """Statistics of another shape beside a sound update; sealed, of another length."""
        yield from self._changed(
            message, asked, lambda name, array: array if array.dtype.kind == "f" else np.append(array, array[:1])
        )

    def _replay(self, message: Message, asked: tuple[str, str]) -> Iterable[Message]:
        """What the site answered a round ago, as the answer to this question."""
        yield Message(self._last[asked], reply_to=message)

    def _changed(
        self, message: Message, asked: tuple[str, str], change: Callable[[str, np.ndarray], np.ndarray]
    ) -> Iterable[Message]:
        for reply in self._sound(message, asked):
            content = RecordDict(dict(reply.content.items()))
            for name in (UPDATE, STATISTICS, SEALED):
                if name in content:
                    pack = pack_counts if name == STATISTICS else pack_arrays
                    content[name] = pack({key: change(key, each) for key, each in unpack_counts(content[name]).items()})
            yield Message(content, reply_to=message)
