"""The layout of a sum: named vectors in segments, each with one owning tower, its own modulus and masks."""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self, cast

import numpy as np
from numpy.typing import NDArray

from fedhealth.secagg.errors import ProtocolViolationError, refuse_unless
from fedhealth.secagg.primitives import noise_grid
from fedhealth.secagg.primitives.codec import MessageReader, MessageWriter

Words = NDArray[np.unsignedinteger[Any]]
SegmentKind = Literal["model", "statistics", "noised"]
SEGMENT_KINDS: tuple[SegmentKind, ...] = ("model", "statistics", "noised")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:-]{0,199}", re.ASCII)
# Weights are whole multiples of 2^-16, so that all parties compute the same total.
WEIGHT_ONE = 2**16
# The contributors are counted in words with at least this many bits in all, so that a sum with a leftover mask passes
# the count with a probability below 2^-64.
COUNT_BITS = 64


@dataclass(frozen=True)
class VectorSpec:
    """The description of one vector.

    Args:
        name: of the layer or statistic; shown in errors.
        length: number of values.
        bound: largest magnitude one site may contribute.
        step: resolution of a statistic (1 for counts); 0 for a model's layer, whose step follows from the modulus.

    """

    name: str
    length: int
    bound: float
    step: float = 0.0


@dataclass(frozen=True)
class Segment:
    """Vectors that are masked and opened together.

    Args:
        name: unique in the layout.
        tower: sites that announced this tower own the segment and contribute to it.
        kind: "model" (fixed point, weighted mean), "statistics" (plain sum of integers or multiples of a step) or
            "noised" (plain sum of multiples of a step, of which every owner's hold a share of the noise).
        bits: word size on the wire; 64 for statistics, 16 to 32 for a model.
        entries: the vectors, in order.
        sites: most sites that may contribute; reserves the headroom for their rounding.
        normaliser: every weight is divided by this, at least the sum of all announced weights (multiples of
            2^-16); constant while the members are, so that a stored vector fits a later attempt.
        clamp_share: largest share of a layer's values that may lie beyond `bound` and be clamped to it.
        share_std: standard deviation of one owner's share of the noise; 0 without noise.
        shares: owners in every opened sum whose shares count, see `noise_grid`; 0 without noise.

    """

    name: str
    tower: str
    kind: SegmentKind
    bits: int
    entries: tuple[VectorSpec, ...]
    sites: int
    normaliser: int = WEIGHT_ONE
    clamp_share: float = 0.0
    share_std: float = 0.0
    shares: int = 0

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.entries]
        for name in (self.name, self.tower, *names):
            refuse_unless(bool(NAME.fullmatch(name)), f"{name!r} is no name for a segment, tower or vector")
        refuse_unless(len(set(names)) == len(names) > 0, f"segment {self.name}: vectors must have unique names")
        allowed = {"model": range(16, 33), "statistics": (64,), "noised": (*range(16, 33), 64)}[self.kind]
        in_range = self.bits in allowed
        refuse_unless(in_range, f"segment {self.name}: {self.bits} bits do not suit a {self.kind} segment")
        refuse_unless(
            self.sites > 0 and 0 < self.normaliser < 2**63 and 0 <= self.clamp_share < 1,
            f"segment {self.name}: sites, normaliser or clamp_share out of range",
        )
        self._refuse_false_noise()
        for entry in self.entries:
            sound = entry.length > 0 and 0 < entry.bound < math.inf
            stepped = entry.step == 0 if self.kind == "model" else 0 < entry.step <= entry.bound
            refuse_unless(sound and stepped, f"segment {self.name}: {entry.name} has a bad length, bound or step")
            self._refuse_overflow(entry)

    def _refuse_false_noise(self) -> None:
        """Refuse noise in a segment of another kind, and a grid or bounds that do not follow from the noise."""
        if self.kind != "noised":
            none = self.share_std == 0 and self.shares == 0
            refuse_unless(none, f"segment {self.name}: a {self.kind} segment has no noise")
            return
        sound = 0 < self.share_std < math.inf and self.shares >= noise_grid.LEAST_SHARES
        refuse_unless(sound, f"segment {self.name}: too few shares or no noise")
        step = noise_grid.compute_grid_step(self.share_std)
        bound = noise_grid.compute_share_bound(self.share_std, self.bits, self.sites)
        same = all((entry.step, entry.bound) == (step, bound) for entry in self.entries)
        refuse_unless(same, f"segment {self.name}: the grid does not follow from the noise")

    def _refuse_overflow(self, entry: VectorSpec) -> None:
        """Refuse values whose sum over all sites could overflow."""
        if self.kind == "model":
            fits = self.levels >= 2 ** (self.bits - 2)
        elif self.kind == "noised":
            fits = True  # the bound follows from the size of the words, and what exceeds it is clamped
        else:
            fits = entry.bound / entry.step * self.sites < 2.0**62
        refuse_unless(
            fits, f"segment {self.name}: {entry.name} cannot fit {self.bits} bits summed over {self.sites} sites"
        )

    @property
    def levels(self) -> int:
        """Steps between zero and an entry's bound, after one unit of rounding per site (and one spare)."""
        return int(2 ** (self.bits - 1) - 1 - (self.sites + 1))

    def step(self, entry: VectorSpec) -> float:
        """Return the value of one unit of this entry's sum, for a site that carried the whole weight."""
        return entry.bound / self.levels if self.kind == "model" else entry.step

    @cached_property
    def length(self) -> int:
        """Values of all entries."""
        return sum(entry.length for entry in self.entries)

    @property
    def count_words(self) -> int:
        """Words that count the contributors."""
        return -(-COUNT_BITS // self.bits)

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """Word type in memory."""
        width = 2 if self.bits == 16 else 4 if self.bits <= 32 else 8
        return cast(np.dtype[np.unsignedinteger[Any]], np.dtype(f"<u{width}"))

    @cached_property
    def words(self) -> int:
        """Words in memory: values, count, and padding to whole blocks where the wire packs bits."""
        words = self.length + self.count_words
        return words if self.bits in (16, 32, 64) else -(-words // 32) * 32

    @property
    def wire_bytes(self) -> int:
        """Bytes of the packed segment."""
        return self.words * self.bits // 8

    def slices(self) -> list[tuple[VectorSpec, slice]]:
        """Return the position of each entry among the words."""
        at, found = 0, []
        for entry in self.entries:
            found.append((entry, slice(at, at + entry.length)))
            at += entry.length
        return found

    def write_to(self, out: MessageWriter) -> None:
        """Append the segment to a message."""
        out.fixed_bytes(self._encoding, len(self._encoding))

    @cached_property
    def _encoding(self) -> bytes:
        """What every message that holds the segment repeats; encoded once."""
        out = MessageWriter(0)
        head = len(out.bytes())
        out.text(self.name).text(self.tower).number(SEGMENT_KINDS.index(self.kind), 1).number(self.bits, 1)
        out.number(self.sites, 4).number(self.normaliser).real(self.clamp_share)
        out.real(self.share_std).number(self.shares, 4).number(len(self.entries), 4)
        for entry in self.entries:
            out.text(entry.name).number(entry.length).real(entry.bound).real(entry.step)
        return out.bytes()[head:]

    @classmethod
    def read_from(cls, source: MessageReader) -> Self:
        """Take a segment from a message."""
        name, tower, kind, bits = source.text(), source.text(), source.number(1), source.number(1)
        sites, normaliser, clamp_share = source.number(4), source.number(), source.real()
        share_std, shares = source.real(), source.number(4)
        if kind >= len(SEGMENT_KINDS):
            raise source.fault("malformed (segment kind)")
        entries = source.sequence(
            lambda: VectorSpec(source.text(), source.number(), bound=source.real(), step=source.real())
        )
        try:
            chosen = SEGMENT_KINDS[kind]
            return cls(name, tower, chosen, bits, entries, sites, normaliser, clamp_share, share_std, shares)
        except ProtocolViolationError as fault:
            raise source.fault(f"malformed ({fault.problem})") from None

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the encoding; a stored vector fits a segment with the same digest only."""
        out = MessageWriter(0)
        self.write_to(out)
        return hashlib.sha256(out.bytes()).digest()


Layout = tuple[Segment, ...]


def make_model_segment(
    name: str,
    tower: str,
    layers: dict[str, int],
    *,
    bound: float,
    bits: int,
    sites: int,
    normaliser: int,
    clamp_share: float = 0.0,
) -> Segment:
    """Describe a model's layers {name: length} with one bound for all."""
    entries = tuple(VectorSpec(layer, length, bound) for layer, length in layers.items())
    return Segment(name, tower, "model", bits, entries, sites, normaliser, clamp_share)


def make_noised_segment(
    name: str, tower: str, layers: Mapping[str, int], *, noise_std: float, shares: int, bits: int, sites: int
) -> Segment:
    """Describe vectors {name: length} whose owners share the noise of their sum, and blanks that hold it alone.

    Args:
        name: of the segment.
        tower: of its owners.
        layers: {name: length}.
        noise_std: standard deviation of the noise of the sum.
        shares: owners in every opened sum whose shares count.
        bits: of a word.
        sites: most sites in the sum.

    """
    share_std = noise_grid.compute_share_std(noise_std, shares)
    bound = noise_grid.compute_share_bound(share_std, bits, sites)
    step = noise_grid.compute_grid_step(share_std)
    sizes = {**layers, noise_grid.name_blanks(name): noise_grid.BLANK_VALUES}
    entries = tuple(VectorSpec(layer, length, bound, step) for layer, length in sizes.items())
    return Segment(name, tower, "noised", bits, entries, sites, share_std=share_std, shares=shares)


def make_statistics_segment(name: str, tower: str, entries: tuple[VectorSpec, ...], *, sites: int) -> Segment:
    """Describe named vectors that are summed exactly."""
    return Segment(name, tower, "statistics", 64, entries, sites)
