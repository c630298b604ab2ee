"""Strict, canonical byte encoding: explicit lengths, one encoding for each value, no trailing bytes."""

import math
import struct
from collections.abc import Callable
from typing import Self, TypeVar

from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.types import SITE_ID

PROTOCOL = b"fedhealth secure aggregation 4"
MAGIC = b"FHSA\x02"
# A hundred sites with four towers need about 2 MB; a larger message is an attack or a mistake.
MAX_MESSAGE_BYTES = 64 * 2**20

T = TypeVar("T")


class MessageWriter:
    """Encode one message part by part."""

    def __init__(self, kind: int) -> None:
        self._parts = [MAGIC, bytes([kind])]

    def number(self, value: int, size: int = 8) -> Self:
        """Append an unsigned little-endian integer."""
        self._parts.append(value.to_bytes(size, "little"))
        return self

    def real(self, value: float) -> Self:
        """Append an IEEE double."""
        self._parts.append(struct.pack("<d", value))
        return self

    def fixed_bytes(self, data: bytes, size: int) -> Self:
        """Append bytes of a length that both sides know."""
        if len(data) != size:
            raise ValueError(f"expected {size} bytes, got {len(data)}")
        self._parts.append(data)
        return self

    def blob(self, data: bytes) -> Self:
        """Append length-prefixed bytes."""
        return self.number(len(data), 4).fixed_bytes(data, len(data))

    def text(self, value: str) -> Self:
        """Append length-prefixed UTF-8 text."""
        return self.blob(value.encode())

    def texts(self, values: tuple[str, ...]) -> Self:
        """Append a list of texts."""
        self.number(len(values), 4)
        for value in values:
            self.text(value)
        return self

    def blobs(self, values: tuple[bytes, ...]) -> Self:
        """Append a list of byte strings."""
        self.number(len(values), 4)
        for value in values:
            self._parts += (len(value).to_bytes(4, "little"), value)
        return self

    def bytes(self) -> bytes:
        """Return the message."""
        return b"".join(self._parts)


class MessageReader:
    """Decode one message; any deviation raises a `ProtocolViolationError` that names the sender."""

    def __init__(self, data: bytes, kind: int, what: str, sender: str) -> None:
        self._data, self._at, self._what, self._sender = data, 0, what, sender
        if len(data) > MAX_MESSAGE_BYTES:
            raise self.fault("oversized")
        if self.fixed_bytes(len(MAGIC)) != MAGIC:
            raise self.fault("of another protocol or version")
        if self.number(1) != kind:
            raise self.fault("of another kind")

    def fault(self, problem: str) -> ProtocolViolationError:
        """Return the error that names the sender."""
        return ProtocolViolationError(f"the {self._what} from {self._sender} is {problem}", blame=(self._sender,))

    def fixed_bytes(self, size: int) -> bytes:
        """Read exactly `size` bytes."""
        end = self._at + size
        if end > len(self._data):
            raise self.fault("truncated")
        part, self._at = self._data[self._at : end], end
        return bytes(part)

    def number(self, size: int = 8) -> int:
        """Read an unsigned little-endian integer."""
        return int.from_bytes(self.fixed_bytes(size), "little")

    def real(self) -> float:
        """Read an IEEE double; negative zero is refused, because zero must have one encoding."""
        value = float(struct.unpack("<d", self.fixed_bytes(8))[0])
        if value == 0 and math.copysign(1, value) < 0:
            raise self.fault("malformed (negative zero)")
        return value

    def flag(self) -> bool:
        """Read a boolean."""
        value = self.number(1)
        if value > 1:
            raise self.fault("malformed (flag)")
        return value == 1

    def blob(self) -> bytes:
        """Read length-prefixed bytes."""
        return self.fixed_bytes(self.number(4))

    def blobs(self) -> tuple[bytes, ...]:
        """Read a list of byte strings; an upload holds three for each site, so it is a loop of its own."""
        count, data, found = self._count_items(), self._data, []
        end = self._at
        for _ in range(count):
            start = end + 4
            end = start + int.from_bytes(data[end:start], "little")
            if end > len(data):
                raise self.fault("truncated")
            found.append(data[start:end])
        self._at = end
        return tuple(found)

    def text(self) -> str:
        """Read length-prefixed UTF-8 text."""
        try:
            return self.blob().decode()
        except UnicodeDecodeError:
            raise self.fault("malformed (text)") from None

    def site(self) -> str:
        """Read a site id."""
        value = self.text()
        if not SITE_ID.fullmatch(value):
            raise self.fault("malformed (site id)")
        return value

    def sequence(self, take: Callable[[], T]) -> tuple[T, ...]:
        """Read a list with its length in front."""
        return tuple([take() for _ in range(self._count_items())])

    def _count_items(self) -> int:
        """Read the length of a list; each item has at least one byte."""
        count = self.number(4)
        if count > len(self._data) - self._at:
            raise self.fault("truncated")
        return count

    def end(self) -> None:
        """Check that no bytes follow."""
        if self._at != len(self._data):
            raise self.fault("followed by extra bytes")
