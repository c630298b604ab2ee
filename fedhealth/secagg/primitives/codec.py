"""Strict byte encodings: every value has exactly one, lengths are explicit, nothing may follow the end."""

import math
import struct
from collections.abc import Callable
from typing import TypeVar

from fedhealth.secagg.protocol.errors import RefusedError
from fedhealth.types import SITE_ID

PROTOCOL = b"fedhealth secure aggregation 1"
MAGIC = b"FHSA\x01"
# A hundred sites with four towers need about 2 MB; what is larger is an attack or a mistake.
MAX_MESSAGE_BYTES = 64 * 2**20

T = TypeVar("T")


class Writer:
    """Collects the parts of one message."""

    def __init__(self, kind: int) -> None:
        self._parts = [MAGIC, bytes([kind])]

    def number(self, value: int, size: int = 8) -> "Writer":
        """Append an unsigned little-endian integer."""
        self._parts.append(value.to_bytes(size, "little"))
        return self

    def real(self, value: float) -> "Writer":
        """Append an IEEE double."""
        self._parts.append(struct.pack("<d", value))
        return self

    def fixed(self, data: bytes, size: int) -> "Writer":
        """Append bytes whose length both sides know."""
        if len(data) != size:
            raise ValueError(f"expected {size} bytes, got {len(data)}")
        self._parts.append(data)
        return self

    def blob(self, data: bytes) -> "Writer":
        """Append bytes with their length in front."""
        return self.number(len(data), 4).fixed(data, len(data))

    def text(self, value: str) -> "Writer":
        """Append UTF-8 text with its length in front."""
        return self.blob(value.encode())

    def texts(self, values: tuple[str, ...]) -> "Writer":
        """Append a list of texts."""
        self.number(len(values), 4)
        for value in values:
            self.text(value)
        return self

    def blobs(self, values: tuple[bytes, ...]) -> "Writer":
        """Append a list of byte strings."""
        self.number(len(values), 4)
        for value in values:
            self.blob(value)
        return self

    def bytes(self) -> bytes:
        """Return the message."""
        return b"".join(self._parts)


class Reader:
    """Takes one message apart; any deviation is a `RefusedError` that names the sender."""

    def __init__(self, data: bytes, kind: int, what: str, sender: str) -> None:
        self._data, self._at, self._what, self._sender = data, 0, what, sender
        if len(data) > MAX_MESSAGE_BYTES:
            raise self.fault("oversized")
        if self.fixed(len(MAGIC)) != MAGIC:
            raise self.fault("of another protocol or version")
        if self.number(1) != kind:
            raise self.fault("of another kind")

    def fault(self, problem: str) -> RefusedError:
        """Build the error that names the sender."""
        return RefusedError(f"the {self._what} from {self._sender} is {problem}", blame=(self._sender,))

    def fixed(self, size: int) -> bytes:
        """Take exactly `size` bytes."""
        end = self._at + size
        if end > len(self._data):
            raise self.fault("truncated")
        part, self._at = self._data[self._at : end], end
        return bytes(part)

    def number(self, size: int = 8) -> int:
        """Take an unsigned little-endian integer."""
        return int.from_bytes(self.fixed(size), "little")

    def real(self) -> float:
        """Take an IEEE double; negative zero is refused, as it would be a second zero."""
        value = float(struct.unpack("<d", self.fixed(8))[0])
        if value == 0 and math.copysign(1, value) < 0:
            raise self.fault("malformed (negative zero)")
        return value

    def flag(self) -> bool:
        """Take a boolean."""
        value = self.number(1)
        if value > 1:
            raise self.fault("malformed (flag)")
        return value == 1

    def blob(self) -> bytes:
        """Take bytes with their length in front."""
        return self.fixed(self.number(4))

    def text(self) -> str:
        """Take UTF-8 text."""
        try:
            return self.blob().decode()
        except UnicodeDecodeError:
            raise self.fault("malformed (text)") from None

    def site(self) -> str:
        """Take a site id."""
        value = self.text()
        if not SITE_ID.fullmatch(value):
            raise self.fault("malformed (site id)")
        return value

    def several(self, take: Callable[[], T]) -> tuple[T, ...]:
        """Take a counted list."""
        count = self.number(4)
        if count > len(self._data) - self._at:
            raise self.fault("truncated")
        return tuple(take() for _ in range(count))

    def end(self) -> None:
        """Check that nothing follows."""
        if self._at != len(self._data):
            raise self.fault("followed by extra bytes")
