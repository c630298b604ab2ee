"""The name of a vector: what an upload is, whatever model it was computed from. A vector is in at most one opened sum.

A name made of the incoming model would not do: a model that differs in the last bit is another model with the same
update. So the name is (run, purpose, round, repetition), and every repetition is drawn, and booked, anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from fedhealth.secagg.primitives.codec import MessageReader, MessageWriter
from fedhealth.utils.digest import digest_parts

PURPOSES = ("train", "evaluate", "describe")


@dataclass(frozen=True)
class VectorName:
    """One vector of every site in a run.

    Args:
        purpose: of the request: one of `PURPOSES`.
        round: the training round.
        repetition: the exchange in which the vector was asked for first. Exchange numbers only increase, so a lead that
            has lost its state cannot give an old name to a new vector.

    """

    purpose: str
    round: int
    repetition: int

    def digest(self, run: str) -> bytes:
        """Return the SHA-256 of the run and the name."""
        numbers = (number.to_bytes(8, "little") for number in (self.round, self.repetition))
        return digest_parts(b"fedhealth vector 1", run.encode(), self.purpose.encode(), *numbers)

    def write_to(self, out: MessageWriter) -> None:
        """Append the name to a message."""
        out.number(PURPOSES.index(self.purpose), 1).number(self.round).number(self.repetition)

    @classmethod
    def read_from(cls, source: MessageReader) -> Self:
        """Take a name from a message."""
        purpose = source.number(1)
        if purpose >= len(PURPOSES):
            raise source.fault("malformed (purpose)")
        return cls(PURPOSES[purpose], source.number(), source.number())
