"""A secure sum of vectors without Flower: four hospitals count, the lead learns the totals only.

    python examples/secure_sum.py

Every message is bytes, so any network can carry it. Here all parties are in one process, and one hospital drops out.
"""

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.consortium.roster import Roster
from fedhealth.secagg import SumLead, SumSite, SumTerms

COUNTS = {
    "north": {"patients": np.array([120]), "ages": np.array([10, 60, 50])},
    "east": {"patients": np.array([80]), "ages": np.array([5, 25, 50])},
    "south": {"patients": np.array([200]), "ages": np.array([20, 90, 90])},
    "west": {"patients": np.array([40]), "ages": np.array([10, 15, 15])},
}


def sum_counts(present: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return the sums over the hospitals that send their vectors, {name: int64 array}."""
    # Each hospital makes its own key; the public keys are exchanged once, for example on paper.
    keys = {name: Ed25519PrivateKey.generate() for name in COUNTS}
    roster = Roster.from_keys({name: key.public_key().public_bytes_raw() for name, key in keys.items()})
    terms = SumTerms("counts-2026", roster, {"patients": 1, "ages": 3}, bound=1e6)
    sites = {name: SumSite(terms, name, key) for name, key in keys.items()}
    lead = SumLead(terms)

    for name, site in sites.items():
        lead.register_site(site.announce_key(), name)
    request = lead.open_sum()
    for name in present:
        head, masked = sites[name].mask_vectors(request, COUNTS[name])
        lead.add_upload(head, masked, name)
    for name, question in lead.request_signatures().items():
        lead.add_signature(sites[name].sign_survivors(question), name)
    for name, question in lead.request_shares().items():
        lead.add_shares(sites[name].open_shares(question), name)
    return lead.read_sum()


if __name__ == "__main__":
    for name, total in sum_counts(("north", "east", "south")).items():
        print(f"{name}: {total.tolist()}")
