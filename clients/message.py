"""A message of the lead, decoded once and passed on as a value."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from flwr.app import Message, RecordDict

from fedhealth.protocol.array_codec import get_arrays, unpack_arrays
from fedhealth.protocol.messages import GLOBAL, Directive, digest_arrays
from fedhealth.types import State


@dataclass(frozen=True)
class ParsedMessage:
    """A message of the lead.

    Attributes:
        kind: the message type, such as `TRAIN`.
        directive: what the lead asks for.
        content: all records, for the secure-aggregation protocol, which decodes its own.

    """

    kind: str
    directive: Directive
    content: RecordDict

    @classmethod
    def parse(cls, message: Message) -> ParsedMessage:
        """Decode the directive.

        Raises:
            FederationError: the directive is missing or malformed.

        """
        return cls(message.metadata.message_type, Directive.parse(message.content), message.content)

    @cached_property
    def arrays(self) -> State:
        """The shared arrays, decoded at first use: a refused message costs nothing.

        Raises:
            FederationError: the arrays are missing or malformed.

        """
        return unpack_arrays(get_arrays(self.content, GLOBAL))

    @cached_property
    def model_digest(self) -> bytes:
        """The SHA-256 of the shared arrays, which several checks ask for.

        Raises:
            FederationError: as `arrays`.

        """
        return digest_arrays(self.arrays)
