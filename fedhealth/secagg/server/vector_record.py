"""The lead's record of the vector that it asks for: its name, and the proofs that earlier attempts can never open."""

from dataclasses import dataclass

from fedhealth.secagg.primitives.codec import MessageReader, MessageWriter
from fedhealth.secagg.protocol.messages import DIGEST_BYTES
from fedhealth.secagg.protocol.store import StateStore
from fedhealth.secagg.protocol.vector_name import VectorName

_NAME, _KIND = "vector", 14


@dataclass(frozen=True)
class VectorRecord:
    """A vector whose sum is not opened yet.

    Args:
        name: of the vector.
        model_digest: of the incoming model.
        certificates: of the abandoned attempts.

    """

    name: VectorName
    model_digest: bytes
    certificates: tuple[bytes, ...] = ()


def save_vector(store: StateStore, record: VectorRecord | None) -> None:
    """Write the record over the old one; None deletes it."""
    if record is None:
        store.delete(_NAME)
        return
    out = MessageWriter(_KIND)
    record.name.write_to(out)
    store.put(_NAME, out.fixed_bytes(record.model_digest, DIGEST_BYTES).blobs(record.certificates).bytes())


def load_vector(store: StateStore) -> VectorRecord | None:
    """Read the record; None if there is none."""
    data = store.get(_NAME)
    if data is None:
        return None
    r = MessageReader(data, _KIND, "stored vector", "this lead's own store")
    found = VectorRecord(VectorName.read_from(r), r.fixed_bytes(DIGEST_BYTES), r.blobs())
    r.end()
    return found
