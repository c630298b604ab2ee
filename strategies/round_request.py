"""The request that all sites get in a round, as records and as messages."""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, RecordDict

from fedhealth.protocol.array_codec import Packed
from fedhealth.protocol.messages import DIRECTIVE, GLOBAL, SECAGG, Directive
from fedhealth.types import State
from strategies.aggregation.base import Shapes
from strategies.participants import Members


@dataclass(frozen=True)
class RunIdentity:
    """The fields that every directive of a run contains: our run id and the configuration's digest."""

    run: str
    digest: str


@dataclass(frozen=True)
class RoundRequest:
    """The request that all sites get in a round.

    Attributes:
        kind: the message type, such as `train.fit`.
        round: the training round.
        arrays: sent to the sites.
        expected: arrays that an update must have; empty if only statistics are requested.
        statistics: shape of every vector of statistics in a reply.
        config: an additional record, or None.
        sensitivity: of the tables among the statistics whose noise the sites share; 0 if there are none.

    """

    kind: str
    round: int
    arrays: State
    expected: State
    statistics: Shapes
    config: ConfigRecord | None = None
    sensitivity: float = 0.0


def build_request(
    directive: Directive,
    arrays: Packed | None = None,
    config: ConfigRecord | None = None,
    secret: ConfigRecord | None = None,
) -> RecordDict:
    """Return the records of a request to a site."""
    records = {DIRECTIVE: directive.record(), GLOBAL: arrays, "config": config or None, SECAGG: secret}
    return RecordDict({name: record for name, record in records.items() if record is not None})


def build_messages(members: Members, content: RecordDict, kind: str, group: str) -> list[Message]:
    """Return one message for each member."""
    return [Message(content, node, kind, group_id=group) for node in members.nodes.values()]
