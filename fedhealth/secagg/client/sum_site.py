"""A site in one secure sum of vectors: bytes in, bytes out, over any network.

Its state is in memory. A site that restarts drops out of the sum: its masks are lost, never used twice. Two sums of the
same vectors over other sites show their difference: give a vector to one sum only, or to sums of the same sites.
"""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.secagg.client.credentials import SiteCredentials
from fedhealth.secagg.client.session import SiteSession
from fedhealth.secagg.client.site_history import EmptyHistory
from fedhealth.secagg.client.statement_book import StatementBook
from fedhealth.secagg.primitives.layout import WEIGHT_ONE
from fedhealth.secagg.primitives.packing import PackedWords
from fedhealth.secagg.primitives.quantize import Vectors
from fedhealth.secagg.protocol.store import MemoryStore
from fedhealth.secagg.protocol.sum_terms import SEGMENT, TOWER, SumTerms


class SumSite:
    """One site; every method raises `ProtocolViolationError` for a message that breaks the protocol.

    Args:
        terms: of the sum.
        name: of this site, one of the roster's.
        identity: its Ed25519 key.

    """

    def __init__(self, terms: SumTerms, name: str, identity: Ed25519PrivateKey) -> None:
        self._terms = terms
        me = SiteCredentials(terms.run, name, identity, terms.roster, terms.digest, terms.policy)
        book = StatementBook(MemoryStore(), name, identity, terms.roster, EmptyHistory())
        self._session = SiteSession(me, MemoryStore(), MemoryStore(), book)

    def announce_key(self) -> bytes:
        """Return the announcement: a fresh key, signed."""
        return self._session.announce({TOWER: WEIGHT_ONE})

    def mask_vectors(self, request: bytes, vectors: Vectors) -> tuple[bytes, dict[str, PackedWords]]:
        """Return the upload: a head, and the masked words of all vectors.

        Args:
            request: of the lead, the same for all sites.
            vectors: {name: integer or real array of the agreed length}.

        """
        terms = self._terms
        context = self._session.accept(request, terms.digest, terms.digest, lambda members: terms.layout)
        return self._session.mask_upload(context, self._session.quantize(context, {SEGMENT: vectors}))

    def sign_survivors(self, request: bytes) -> bytes:
        """Return the signature of the list of sites in the sum."""
        return self._session.sign_survivors(request)

    def open_shares(self, request: bytes) -> bytes:
        """Return the shares that unmask the sum of these sites, once for one list."""
        return self._session.reply_unmask(request)
