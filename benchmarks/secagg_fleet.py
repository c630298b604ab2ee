"""Sites and a lead of our secure aggregation, in memory, for benchmarks."""

import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, Message, RecordDict

from benchmarks.flower_secagg import CLIP
from fedhealth.consortium.roster import Roster
from fedhealth.flower.client.message_codec import EncodedMessage, encode_message
from fedhealth.flower.compat import set_task_identity
from fedhealth.protocol.array_codec import make_packed_arrays, pack_arrays
from fedhealth.protocol.messages import SEALED, SECAGG, TRAIN
from fedhealth.secagg.client.credentials import SiteCredentials
from fedhealth.secagg.client.session import SiteSession
from fedhealth.secagg.client.site_history import EmptyHistory
from fedhealth.secagg.client.statement_book import StatementBook
from fedhealth.secagg.primitives.layout import WEIGHT_ONE, Segment, make_model_segment
from fedhealth.secagg.primitives.quantize import Vectors
from fedhealth.secagg.protocol.context import AttemptContext
from fedhealth.secagg.protocol.store import MemoryStore
from fedhealth.secagg.protocol.vector_name import VectorName
from fedhealth.secagg.server import server_protocol
from fedhealth.secagg.server.session import ServerSession


class Fleet:
    """n sites and a lead of ours, in memory."""

    def __init__(self, n: int) -> None:
        set_task_identity(1, 1)  # without it Flower makes no message
        self.ids = [f"site-{i:03d}" for i in range(n)]
        keys = {name: Ed25519PrivateKey.generate() for name in self.ids}
        roster = Roster.from_keys({name: key.public_key().public_bytes_raw() for name, key in keys.items()})
        config = hashlib.sha256(b"config").digest()
        self.lead = server_protocol.ServerParameters("bench", roster, config)
        self.server = ServerSession(self.lead, MemoryStore())
        self.sites = {
            name: SiteSession(
                SiteCredentials("bench", name, keys[name], roster, config),
                MemoryStore(),
                MemoryStore(),
                StatementBook(MemoryStore(), name, keys[name], roster, EmptyHistory()),
            )
            for name in self.ids
        }
        for name, session in self.sites.items():
            self.server.register(session.announce({"shared": WEIGHT_ONE}), name)

    def segment(self, values: int, bits: int) -> Segment:
        """Describe the vector of a round."""
        n = len(self.ids)
        return make_model_segment(
            "model", "shared", {"weights": values}, bound=CLIP, bits=bits, sites=n, normaliser=n * WEIGHT_ONE
        )

    def open(self, exchange: int, segment: Segment) -> bytes:
        """Start a round; returns TRAIN."""
        digest = hashlib.sha256(exchange.to_bytes(8, "big")).digest()
        return self.server.open_attempt(
            server_protocol.AttemptPlan(
                exchange,
                1,
                VectorName("train", exchange, exchange),
                digest,
                self.ids,
                self.ids,
                (segment,),
                digest,
                digest,
            )
        )

    def accept(self, name: str, descriptor: bytes) -> AttemptContext:
        """Let one site accept TRAIN."""
        found = self.server.context.descriptor
        return self.sites[name].accept(
            descriptor, found.model_digest, found.training_digest, lambda members: found.layout
        )


def build_upload(session: SiteSession, context: AttemptContext, weights: Vectors) -> EncodedMessage:
    """Do all that a site does from its update to the bytes of its reply: words, masks, shares, signature, hashes."""
    sealed = make_packed_arrays({each.name: (each.wire_bytes,) for each in context.layout}, "|u1")
    head, _ = session.mask_upload(context, session.quantize(context, {"model": weights}, sealed), out=sealed)
    content = RecordDict({SECAGG: ConfigRecord({"head": head}), SEALED: pack_arrays(sealed)})
    return encode_message(Message(content, 1, TRAIN))
