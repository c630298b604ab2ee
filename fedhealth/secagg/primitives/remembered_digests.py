"""What a process remembers of pure checks that succeeded: a digest of all that each of them depends on."""

from collections import OrderedDict
from threading import Lock


class RememberedDigests:
    """A set of digests; beyond its capacity the oldest leave. Digests, as what they stand for may be large or secret.

    Args:
        capacity: number of digests.

    """

    def __init__(self, capacity: int) -> None:
        self._capacity, self._lock, self._found = capacity, Lock(), OrderedDict[bytes, None]()

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._found

    def __len__(self) -> int:
        return len(self._found)

    def add(self, digest: bytes) -> None:
        """Remember a digest."""
        with self._lock:
            self._found[digest] = None
            if len(self._found) > self._capacity:
                self._found.popitem(last=False)
