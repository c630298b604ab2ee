"""A consortium of sites on disk: homes, keys, a signed membership."""

from collections.abc import Sequence
from pathlib import Path

from fedhealth.consortium.membership import Member, Membership, SignedMembership, sign_membership
from fedhealth.lead.home import LeadHome
from fedhealth.site.home import SiteHome
from fedhealth.utils.private_files import load_signing_key, make_signing_key

SITES = ("charite", "klinikum", "st-brigid")


class Consortium:
    """The lead's home and the sites' homes below one folder."""

    def __init__(self, root: Path, sites: Sequence[str] = SITES) -> None:
        self.lead = LeadHome(root / "lead")
        self.lead.create()
        self.public = make_signing_key(self.lead.consortium_key)
        self.homes = {site: SiteHome(root / site) for site in sites}
        for home in self.homes.values():
            home.create()
        self.save(self.membership())

    def membership(self, **changes) -> Membership:
        """Return the membership, or one that differs."""
        members = tuple(
            Member(site, home.load_identity_key().public_key().public_bytes_raw(), home.load_node_public_key())
            for site, home in self.homes.items()
        )
        fields = {
            "project": "chest",
            "lead": "lead.example:9092",
            "consortium": self.public,
            "ca": "ab" * 32,
            "serial": 1,
            "issued": 1_700_000_000,
            "members": members,
        }
        return Membership(**{**fields, **changes})

    def save(self, membership: Membership) -> SignedMembership:
        """Sign it and leave it in the lead's home."""
        made = sign_membership(membership, load_signing_key(self.lead.consortium_key))
        self.lead.membership.write_bytes(made.dumps())
        return made
