"""A consortium as its people make it: provisioned, three sites' requests admitted, kits not yet installed."""

from pathlib import Path

from fedhealth.lead.admit import admit_member
from fedhealth.lead.home import LeadHome
from fedhealth.lead.project import Project
from fedhealth.lead.provision import provision_consortium
from fedhealth.site.home import SiteHome
from fedhealth.site.install import install_kit
from fedhealth.site.make_join_request import make_join_request

LEAD = "127.0.0.1:9092"
SITES = ("charite", "klinikum", "st-brigid")


class World:
    """The lead's home and the sites' homes below one folder."""

    def __init__(self, root: Path, lead: str = LEAD, sites: tuple[str, ...] = SITES, name: str = "chest") -> None:
        self.root, self.address = root, lead
        self.lead = LeadHome(root / "lead")
        provision_consortium(self.lead, Project(name, lead, names=("localhost",)))
        self.homes: dict[str, SiteHome] = {}
        for site in sites:
            self.add(site)

    def site(self, name: str) -> SiteHome:
        """Set up a site up to its request."""
        home = self.homes[name] = SiteHome(self.root / "sites" / name)
        make_join_request(home, name, self.address)
        home.policy.write_text(f"name: {name}\nlead: {self.address}\n")
        return home

    def add(self, name: str) -> SiteHome:
        """Set up a site and admit it."""
        home = self.site(name)
        admit_member(self.lead, home.join_request.read_bytes())
        return home

    def kit(self, site: str) -> bytes:
        """The site's latest kit."""
        return (self.lead.kits / f"{site}.zip").read_bytes()

    def install(self, site: str, fingerprint: str | None = None):
        """Install the site's latest kit."""
        return install_kit(self.homes[site], self.kit(site), fingerprint)
