"""What all parties of a secure sum of vectors agree on before it, without Flower and without a model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from fedhealth.consortium.roster import Roster
from fedhealth.secagg.primitives.layout import Layout, VectorSpec, make_statistics_segment
from fedhealth.secagg.protocol.threshold import ThresholdPolicy
from fedhealth.utils.digest import digest_parts

SEGMENT, TOWER = "vectors", "shared"


@dataclass(frozen=True)
class SumTerms:
    """The terms of one sum; every party builds them from its own knowledge.

    Attributes:
        run: id of the sum, never used twice.
        roster: the sites and their public identity keys.
        lengths: number of values of each vector, by its name.
        bound: largest magnitude of one value of one site.
        step: resolution: 1 sums integers exactly, 2**-20 sums real numbers to about six digits.
        policy: how many sites may collude or drop out.

    """

    run: str
    roster: Roster
    lengths: Mapping[str, int]
    bound: float
    step: float = 1.0
    policy: ThresholdPolicy = field(default_factory=ThresholdPolicy)

    @cached_property
    def layout(self) -> Layout:
        """The layout of the sum. Raises `ProtocolViolationError` for a bad name, length, bound or step."""
        entries = tuple(VectorSpec(name, size, self.bound, self.step) for name, size in sorted(self.lengths.items()))
        return (make_statistics_segment(SEGMENT, TOWER, entries, sites=len(self.roster.members)),)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the run, the roster and the layout."""
        return digest_parts(b"fedhealth sum 1", self.run.encode(), self.roster.digest, self.layout[0].digest)
