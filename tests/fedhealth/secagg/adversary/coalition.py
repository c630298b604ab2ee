"""A lead and colluding sites that pool all they have and look for the smallest sum that they can open."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from fedhealth.secagg.client.journal import load_secrets
from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.primitives import field, masks, shamir
from fedhealth.secagg.primitives.keys import derive_key
from fedhealth.secagg.protocol.envelope import (
    COMMIT_BYTES,
    OWN,
    SecretSlot,
    build_pair_label,
    commit_secret,
    list_slots,
    list_unmask_slots,
    select_mask_keys,
    unseal_shares,
)
from fedhealth.secagg.protocol.messages import MaskedUpload, UnmaskReply, UnmaskRequest
from tests.fedhealth.secagg.federation import Federation

SEGMENT = "shared-model"


class Coalition:
    """Collects one attempt's uploads itself, so that it can tell every site another story about them."""

    def __init__(self, federation: Federation, colluders: Sequence[str]):
        self.federation, self.colluders = federation, tuple(colluders)
        self.honest = tuple(site for site in federation.ids if site not in colluders)
        plan = federation.plan(layout=(federation.segment(),))
        descriptor = federation.server.open_attempt(plan)
        self.context = federation.server.context
        self.uploads, self.masked, self.kept = {}, {}, {}
        for site in federation.ids:
            context = federation.accept(site, descriptor, plan)
            kept = federation.sites[site].quantize(context, federation.vectors(site, context.layout))
            head, vectors = federation.sites[site].mask_upload(context, kept)
            self.uploads[site] = MaskedUpload.from_bytes(head, site)
            self.masked[site], self.kept[site] = vectors[SEGMENT].view("<u4"), kept.segments[SEGMENT][2]
        self.shares: dict[tuple[str, int], dict[int, int]] = {}
        for colluder in self.colluders:
            self._open_envelopes(colluder)

    def _open_envelopes(self, colluder: str) -> None:
        """A colluder reads everything that was dealt to it."""
        chains, at = dict(load_secrets(self.federation.secrets[colluder]).chains), self.context.cohort.index(colluder)
        for dealer, upload in self.uploads.items():
            found = unseal_shares(
                self.context, chains[dealer], dealer, colluder, upload.envelopes[at], upload.share_commits[at]
            )
            assert found is not None
            for index in range(len(list_slots(self.context, dealer))):
                self.shares.setdefault((dealer, index), {})[at + 1] = field.decode_element(found.get_share(index))

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
                answer = UnmaskReply.from_bytes(self.federation.sites[site].reply_unmask(request.to_bytes()), site)
            except ProtocolViolationError as fault:
                refusals.append(fault.rule)
                continue
            pieces = list_unmask_slots(self.context, tuple(survivors), answer.segments)
            for order, (dealer, index, _) in enumerate(pieces):
                share = answer.shares[field.ELEMENT_BYTES * order :][: field.ELEMENT_BYTES]
                self.shares.setdefault((dealer, index), {})[at + 1] = field.decode_element(share)
        return refusals

    def known_keys(self) -> dict[tuple[str, SecretSlot], bytes]:
        """Every mask key that enough shares, or a colluder's own chain, give away."""
        threshold, found = self.context.descriptor.threshold, {}
        for dealer in self.context.cohort:
            for index, slot in enumerate(list_slots(self.context, dealer)):
                shares = self.shares.get((dealer, index), {})
                if len(shares) < threshold:
                    continue
                secret = shamir.combine_shares(dict(list(shares.items())[:threshold]))
                commits = self.uploads[dealer].secret_commits
                committed = commits[COMMIT_BYTES * index :][:COMMIT_BYTES]
                assert commit_secret(self.context.ctx, dealer, index, secret) == committed
                found[dealer, slot] = secret
                if slot.peer != OWN:
                    found[slot.peer, SecretSlot(slot.group, dealer)] = secret
        return found | self._colluders_keys()

    def _colluders_keys(self) -> dict[tuple[str, SecretSlot], bytes]:
        found = {}
        for colluder in self.colluders:
            chains = dict(load_secrets(self.federation.secrets[colluder]).chains)
            for site in self.honest:
                label = build_pair_label(b"mask", self.context.ctx, colluder, site)
                found[site, SecretSlot(SEGMENT, colluder)] = derive_key(chains[site], *label, SEGMENT.encode())
        return found

    def smallest_opened(self) -> tuple[str, ...]:
        """Return the smallest set of honest sites whose sum falls out, after checking that it is their true sum."""
        keys = self.known_keys()
        for size in range(1, len(self.honest) + 1):
            for group in itertools.combinations(self.honest, size):
                if self._opens(group, keys):
                    return group
        return ()

    def _opens(self, group: Sequence[str], keys: Mapping[tuple[str, SecretSlot], bytes]) -> bool:
        """Within the group the pair masks cancel; all others must be known."""
        needed = {
            (site, slot)
            for site in group
            for slot in list_slots(self.context, site)
            if slot.peer == OWN or slot.peer not in group
        }
        if not needed <= set(keys):
            return False
        total = np.sum([self.masked[site] for site in group], axis=0, dtype="<u4")
        added, subtracted = select_mask_keys(self.context, {which: keys[which] for which in needed}, SEGMENT)
        masks.apply_masks(total, plus=subtracted, minus=added)
        assert np.array_equal(total, np.sum([self.kept[site] for site in group], axis=0, dtype="<u4"))
        return True
