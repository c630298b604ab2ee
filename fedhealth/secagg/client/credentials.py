"""What a site knows by itself in a run; nothing here is taken from the lead's messages."""

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.consortium.roster import Roster
from fedhealth.secagg.protocol.threshold import ThresholdPolicy, Thresholds, compute_thresholds


@dataclass(frozen=True)
class SiteCredentials:
    """The site's own knowledge; nothing here is taken from the lead's messages.

    Args:
        run: the run's id.
        site: own id.
        identity: own Ed25519 key, generated at the site.
        roster: the members approved by the site's staff.
        config_digest: SHA-256 of the job this site accepted.
        policy: the minimum thresholds of this site.
        members: sites of the run, from its approved configuration; None if all of the roster are.

    """

    run: str
    site: str
    identity: Ed25519PrivateKey
    roster: Roster
    config_digest: bytes
    policy: ThresholdPolicy = field(default_factory=ThresholdPolicy)
    members: tuple[str, ...] | None = None

    @property
    def run_members(self) -> tuple[str, ...]:
        """Return the sites of the run. The members of a study will take their place."""
        return tuple(self.roster.keys) if self.members is None else self.members

    @property
    def thresholds(self) -> Thresholds:
        """Return the thresholds of the run, the same for all cohorts; `ProtocolViolationError` for too few members."""
        return compute_thresholds(len(self.run_members), self.policy, len(self.roster.members))
