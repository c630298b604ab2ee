"""A lead and colluding sites that pool all they have and look for the smallest sum that they can open."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from fedhealth.secagg.client.journal import load_secrets
from fedhealth.secagg.primitives import field, masks, shamir
from fedhealth.secagg.primitives.keys import derive
from fedhealth.secagg.protocol.envelope import (
    COMMIT_BYTES,
    OWN,
    Slot,
    commit_secret,
    mask_keys,
    opened,
    pair_label,
    slots,
    unseal,
)
from fedhealth.secagg.protocol.errors import RefusedError
from fedhealth.secagg.protocol.messages import Answer, UnmaskRequest, Upload
from tests.fedhealth.secagg.federation import Federation

SEGMENT = "shared-model"


class Coalition:
    """Collects one attempt's uploads itself, so that it can tell every site another story about them."""

    def __init__(self, federation: Federation, colluders: Sequence[str]):
        self.federation, self.colluders = federation, tuple(colluders)
        self.honest = tuple(site for site in federation.ids if site not in colluders)
        plan = federation.plan(layout=(federation.segment(),))
        directive = federation.server.open(plan)
        self.context = federation.server.context
        self.uploads, self.masked, self.kept = {}, {}, {}
        for site in federation.ids:
            context = federation.accept(site, directive, plan)
            kept = federation.sites[site].quantise(context, federation.vectors(site, context.layout))
            head, vectors = federation.sites[site].upload(context, kept)
            self.uploads[site] = Upload.from_bytes(head, site)
            self.masked[site], self.kept[site] = vectors[SEGMENT].view("<u4"), kept.segments[SEGMENT][2]
        self.shares: dict[tuple[str, int], dict[int, int]] = {}
        for colluder in self.colluders:
            self._open_envelopes(colluder)

    def _open_envelopes(self, colluder: str) -> None:
        """A colluder reads everything that was dealt to it."""
        chains, at = dict(load_secrets(self.federation.secrets[colluder]).chains), self.context.cohort.index(colluder)
        for dealer, upload in self.uploads.items():
            found = unseal(
                self.context, chains[dealer], dealer, colluder, upload.envelopes[at], upload.share_commits[at]
            )
            for index, share in enumerate(found):
                self.shares.setdefault((dealer, index), {})[at + 1] = field.from_bytes(share)

    def tell(self, stories: Mapping[str, Sequence[str]]) -> list[str]:
        """Ask each site to unmask its own list of survivors; returns the rules that refused."""
        refusals = []
        for site, survivors in stories.items():
            at = self.context.cohort.index(site)
            request = UnmaskRequest(
                self.context.ctx,
                tuple(survivors),
                (),
                tuple(self.uploads[dealer].envelopes[at] for dealer in survivors),
                tuple(self.uploads[dealer].share_commits[at] for dealer in survivors),
            )
            try:
                answer = Answer.from_bytes(self.federation.sites[site].unmask(request.to_bytes()), site)
            except RefusedError as fault:
                refusals.append(fault.rule)
                continue
            pieces = opened(self.context, survivors, answer.segments)
            for order, (dealer, index, _) in enumerate(pieces):
                share = answer.shares[field.ELEMENT_BYTES * order :][: field.ELEMENT_BYTES]
                self.shares.setdefault((dealer, index), {})[at + 1] = field.from_bytes(share)
        return refusals

    def known_keys(self) -> dict[tuple[str, Slot], bytes]:
        """Every mask key that enough shares, or a colluder's own chain, give away."""
        threshold, found = self.context.directive.threshold, {}
        for dealer in self.context.cohort:
            for index, slot in enumerate(slots(self.context, dealer)):
                shares = self.shares.get((dealer, index), {})
                if len(shares) < threshold:
                    continue
                secret = shamir.combine(dict(list(shares.items())[:threshold]))
                commits = self.uploads[dealer].secret_commits
                committed = commits[COMMIT_BYTES * index :][:COMMIT_BYTES]
                assert commit_secret(self.context.ctx, dealer, index, secret) == committed
                found[dealer, slot] = secret
                if slot.peer != OWN:
                    found[slot.peer, Slot(slot.segment, dealer)] = secret
        return found | self._colluders_keys()

    def _colluders_keys(self) -> dict[tuple[str, Slot], bytes]:
        found = {}
        for colluder in self.colluders:
            chains = dict(load_secrets(self.federation.secrets[colluder]).chains)
            for site in self.honest:
                label = pair_label(b"mask", self.context.ctx, colluder, site)
                found[site, Slot(SEGMENT, colluder)] = derive(chains[site], *label, SEGMENT.encode())
        return found

    def smallest_opened(self) -> tuple[str, ...]:
        """Return the smallest set of honest sites whose sum falls out, after checking that it is their true sum."""
        keys = self.known_keys()
        for size in range(1, len(self.honest) + 1):
            for group in itertools.combinations(self.honest, size):
                if self._opens(group, keys):
                    return group
        return ()

    def _opens(self, group: Sequence[str], keys: Mapping[tuple[str, Slot], bytes]) -> bool:
        """Within the group the pair masks cancel; all others must be known."""
        needed = {
            (site, slot)
            for site in group
            for slot in slots(self.context, site)
            if slot.peer == OWN or slot.peer not in group
        }
        if not needed <= set(keys):
            return False
        total = np.sum([self.masked[site] for site in group], axis=0, dtype="<u4")
        added, subtracted = mask_keys({which: keys[which] for which in needed}, SEGMENT)
        masks.apply(total, plus=subtracted, minus=added)
        assert np.array_equal(total, np.sum([self.kept[site] for site in group], axis=0, dtype="<u4"))
        return True
