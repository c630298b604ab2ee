"""The lead of one secure sum of vectors: it adds masked words and learns their sum only.

Call in this order: `register_site` for every announcement, `open_sum`, `add_upload` for every upload that arrives,
`request_signatures` and `add_signature` if signatures are needed, `request_shares`, `add_shares`, `read_sum`.
"""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from fedhealth.secagg.primitives.packing import PackedWords
from fedhealth.secagg.protocol.store import MemoryStore
from fedhealth.secagg.protocol.sum_terms import SEGMENT, SumTerms
from fedhealth.secagg.protocol.vector_name import VectorName
from fedhealth.secagg.server.server_protocol import AttemptPlan, ServerParameters
from fedhealth.secagg.server.session import ServerSession


class SumLead:
    """The lead; every method raises `ProtocolViolationError` for a message that breaks the protocol.

    Args:
        terms: of the sum.

    """

    def __init__(self, terms: SumTerms) -> None:
        self._terms = terms
        parameters = ServerParameters(terms.run, terms.roster, terms.digest, terms.policy)
        self._session = ServerSession(parameters, MemoryStore())

    def register_site(self, announcement: bytes, sender: str) -> None:
        """Register the announcement of a site."""
        self._session.register(announcement, sender)

    def open_sum(self) -> bytes:
        """Return the request for the vectors, the same for every registered site."""
        terms, sites = self._terms, sorted(self._session.members)
        plan = AttemptPlan(
            1, 1, VectorName("train", 1, 1), terms.digest, sites, sites, terms.layout, terms.digest, terms.digest
        )
        return self._session.open_attempt(plan)

    def add_upload(self, head: bytes, masked: Mapping[str, PackedWords], sender: str) -> None:
        """Add one site's upload to the sum: its head, and uint8 words by name; one that is refused changes nothing."""
        self._session.add_upload(head, masked, sender)

    def request_signatures(self) -> dict[str, bytes]:
        """Close the sum for further uploads; return, by site, the list of its sites to sign; empty if none is needed.

        Raises `ProtocolViolationError` if too few sites sent their vectors.
        """
        survivors, request = self._session.fix_survivors(), self._session.sign_request()
        return {} if request is None else dict.fromkeys(survivors, request)

    def add_signature(self, signature: bytes, sender: str) -> bool:
        """Add a signature; return whether there are enough."""
        return self._session.add_signature(signature, sender)

    def request_shares(self) -> dict[str, bytes]:
        """Return, by site in the sum, the request for the shares that unmask it."""
        return self._session.unmask_requests()

    def add_shares(self, shares: bytes, sender: str) -> bool:
        """Add the shares of one site; return whether there are enough."""
        return self._session.add_unmask_reply(shares, sender)

    def read_sum(self) -> dict[str, NDArray[Any]]:
        """Return the sums by name: int64 for a step of 1, float64 otherwise; each of the agreed length."""
        return self._session.open_sums().vectors[SEGMENT]
