"""The lead's session: one attempt after another; the survivors are on disk before any unmask request is sent."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.primitives.codec import MessageReader, MessageWriter
from fedhealth.secagg.primitives.keys import SIGNATURE_BYTES
from fedhealth.secagg.primitives.packing import PackedWords
from fedhealth.secagg.protocol import rules
from fedhealth.secagg.protocol.abandon import AbandonCertificate, AbandonRequest, compute_abandon_quorum
from fedhealth.secagg.protocol.context import AttemptContext
from fedhealth.secagg.protocol.history import HistoryLink
from fedhealth.secagg.protocol.messages import AttemptDescriptor, KeyAnnouncement, MaskedUpload
from fedhealth.secagg.protocol.store import StateStore
from fedhealth.secagg.server import server_protocol, unmasking
from fedhealth.secagg.server.abandoning import verify_abandonment
from fedhealth.secagg.server.vector_record import VectorRecord, load_vector, save_vector

HEADER, COUNTER, MEMBERS = "unmasking", "counter", "members"
HEADER_KIND, COUNTER_KIND, MEMBERS_KIND = 8, 9, 10
_LENGTH_BYTES = 8  # of the header's length, before it
HERE = "this lead's own store"


class ServerSession:
    """The lead's side of one run.

    After a crash following `unmask_requests`, a new session with the same store continues with the same survivors: call
    `unmask_requests` again, and the sites repeat their replies.

    Args:
        lead: run, roster and policy of the lead.
        store: durable; holds announcements, counters, and the masked sums (not secret) while they are being unmasked.

    """

    def __init__(self, lead: server_protocol.ServerParameters, store: StateStore) -> None:
        self.lead, self._store = lead, store
        self.members = self._load_members()
        self._attempt: server_protocol.AttemptState | None = None
        self._state = self._load()
        self._requested_unmask = self._state is not None
        self._vector = load_vector(store)
        self._abandonments: dict[str, bytes] = {}
        self._unshown: dict[str, bytes] = {}

    @property
    def last_attempt(self) -> tuple[int, int]:
        """Return the latest (exchange, attempt) that was started, at first (0, 0); survives restarts."""
        data = self._store.get(COUNTER)
        if data is None:
            return 0, 0
        found = MessageReader(data, COUNTER_KIND, "counter", HERE)
        return found.number(), found.number()

    @property
    def has_requested_unmask(self) -> bool:
        """Return whether unmask requests of the latest attempt may have been sent, also before a restart."""
        return self._requested_unmask

    @property
    def survivors(self) -> tuple[str, ...]:
        """Return the sites in the sum that is being unmasked. Raises `ProtocolViolationError` if there is none."""
        return self._get_unmasking_state().survivors

    @property
    def context(self) -> AttemptContext:
        """Return the context of the attempt in progress."""
        return self._attempt.context if self._attempt else self._get_unmasking_state().context

    def register(self, data: bytes, sender: str) -> KeyAnnouncement:
        """Register ANNOUNCE from the node named `sender` and return it; it contains the site id.

        Raises `ProtocolViolationError`.
        """
        found = server_protocol.register_announcement(self.lead, self.members, data, sender)
        self.members[found.site] = found
        blobs = tuple(member.to_bytes() for member in self.members.values())
        self._store.put(MEMBERS, MessageWriter(MEMBERS_KIND).blobs(blobs).bytes())
        return found

    def open_attempt(self, plan: server_protocol.AttemptPlan) -> bytes:
        """Start an attempt and return TRAIN, the same for every site of the cohort. Raises `ProtocolViolationError`."""
        rules.r6_unopened(self._get_unmasking_state().context if self._requested_unmask else None, plan.exchange)
        if (plan.exchange, plan.attempt) <= self.last_attempt:
            raise ProtocolViolationError(
                f"attempt {plan.attempt} of exchange {plan.exchange} was already opened", rule="R4"
            )
        context = server_protocol.propose_attempt(self.lead, self.members, plan)
        self._keep_vector(plan)
        counter = MessageWriter(COUNTER_KIND).number(plan.exchange).number(plan.attempt)
        self._store.put(COUNTER, counter.bytes())
        self._unshown = self._list_unshown()
        self._attempt, self._state, self._requested_unmask = server_protocol.start_attempt(context), None, False
        return context.descriptor.to_bytes()

    def get_envelopes(self, site: str) -> bytes:
        """Return UNMASK of the attempt before for a survivor whose reply did not arrive; empty for the others.

        It travels with TRAIN: a site sends no new vector before it was shown what the others sealed to it.
        """
        return self._unshown.get(site, b"")

    def add_upload(self, data: bytes, vectors: Mapping[str, PackedWords], sender: str) -> None:
        """Add an upload to the sums. Raises `ProtocolViolationError`; the sums are then unchanged."""
        attempt = self._get_attempt()
        try:
            self._attempt = server_protocol.add_upload(self.lead, attempt, data, vectors, sender)
        except server_protocol.TagsDifferError as fault:
            self._attempt = server_protocol.record_conflict(attempt, fault)
            raise

    def fix_survivors(self) -> tuple[str, ...]:
        """Fix the survivors and return them. Raises `ProtocolViolationError` if there are too few."""
        attempt = self._get_attempt()
        self._state = unmasking.fix_survivors(self.lead, attempt, server_protocol.find_survivors(attempt))
        self._attempt = None
        return self._state.survivors

    def sign_request(self) -> bytes | None:
        """Return SIGN for every survivor; None when this attempt needs no signatures."""
        state = self._get_unmasking_state()
        return unmasking.build_sign_request(state) if state.context.descriptor.signed else None

    def add_signature(self, data: bytes, sender: str) -> bool:
        """Add a signature; return True once there are enough. Raises `ProtocolViolationError`."""
        self._state = unmasking.add_signature(self.lead, self._get_unmasking_state(), data, sender)
        return self._state.has_enough_signatures

    def unmask_requests(self) -> dict[str, bytes]:
        """Store the sums and survivors, then return UNMASK for each survivor. Raises `ProtocolViolationError`."""
        state = self._get_unmasking_state()
        requests = {site: unmasking.build_unmask_request(state, site) for site in state.survivors}
        if not self._requested_unmask:
            self._save(state)
            self._requested_unmask = True
        return requests

    def add_unmask_reply(self, data: bytes, sender: str) -> bool:
        """Add a reply; return True once there are enough. Raises `ProtocolViolationError`."""
        self._state = unmasking.add_unmask_reply(self.lead, self._get_unmasking_state(), data, sender)
        return self._state.has_enough_replies

    def open_sums(self, workers: int = 1) -> unmasking.OpenedSums:
        """Unmask the sums, once; again only after a restart. Raises `ProtocolViolationError`."""
        state = self._get_unmasking_state()
        opened = unmasking.open_sums(state, workers)
        self._state = replace(state, attempt=replace(state.attempt, sums={}))  # now the caller has the only reference
        return opened

    @property
    def certificates(self) -> tuple[bytes, ...]:
        """Return what proves that earlier attempts at the latest vector can never open."""
        return self._vector.certificates if self._vector else ()

    def find_repetition(self, purpose: str, number: int, model_digest: bytes) -> int:
        """Return the repetition of the latest vector, if it is for this request and was neither opened nor given up.

        Return 0 otherwise, also while its sum is being unmasked: the request then asks for a new vector.
        """
        found = self._vector
        same = found and (found.name.purpose, found.name.round, found.model_digest) == (purpose, number, model_digest)
        if not found or not same:
            return 0
        is_unmasking = self._state is not None and self._state.context.descriptor.vector == found.name
        return 0 if is_unmasking and self._requested_unmask else found.name.repetition

    def close_vector(self) -> None:
        """Never ask for the latest vector again: its sum is stored, or cannot be opened any more."""
        self._vector = None
        save_vector(self._store, None)

    def abandon_requests(self) -> dict[str, bytes]:
        """Return ABANDON for every site of the attempt that is being unmasked, with TRAIN for those without upload."""
        self._abandonments = {}
        state = self._get_unmasking_state()
        short = AbandonRequest(state.context.ctx)
        whole = AbandonRequest(state.context.ctx, state.context.descriptor.to_bytes())
        uploads = state.attempt.uploads
        return {site: (short if site in uploads else whole).to_bytes() for site in state.context.cohort}

    def add_abandonment(self, data: bytes, sender: str) -> bool:
        """Add a reply to ABANDON; return True once the attempt can never open. Raises `ProtocolViolationError`."""
        context = self._get_unmasking_state().context
        self._abandonments[sender] = verify_abandonment(self.lead, context, data, sender)
        quorum = compute_abandon_quorum(context.descriptor, self.lead.thresholds.colluders)
        return len(self._abandonments) >= quorum

    def close_attempt(self) -> None:
        """Store the proof that the attempt can never open; the next attempt masks the same vector again."""
        ctx, signatures = self._get_unmasking_state().context.ctx, tuple(sorted(self._abandonments.items()))
        if self._vector is not None:
            certificate = AbandonCertificate(ctx, signatures).to_bytes()
            self._vector = replace(self._vector, certificates=(*self._vector.certificates, certificate))
            save_vector(self._store, self._vector)
        self._store.delete(HEADER)
        self._state, self._requested_unmask = None, False

    def _list_unshown(self) -> dict[str, bytes]:
        """Return UNMASK for the survivors who may not have received it."""
        state = self._state
        if state is None or not self._requested_unmask:
            return {}
        missing = (site for site in state.survivors if site not in state.replies)
        return {site: unmasking.build_unmask_request(state, site) for site in missing}

    def _keep_vector(self, plan: server_protocol.AttemptPlan) -> None:
        """Store the name of the vector of an attempt, with the certificates of its earlier attempts."""
        if self._vector is None or self._vector.name != plan.vector:
            self._vector = VectorRecord(plan.vector, plan.model_digest)
            save_vector(self._store, self._vector)

    def build_link(self, sum_digest: bytes) -> HistoryLink:
        """Return the history link of the sum that was opened; its next digest is empty."""
        return unmasking.build_link(self._get_unmasking_state(), sum_digest)

    def _get_attempt(self) -> server_protocol.AttemptState:
        if self._attempt is None:
            raise ProtocolViolationError(
                "no attempt is collecting uploads; a late one waits for the next attempt", rule="R6"
            )
        return self._attempt

    def _get_unmasking_state(self) -> unmasking.UnmaskingState:
        if self._state is None:
            raise ProtocolViolationError("the survivors of this attempt are not fixed yet", rule="R6")
        return self._state

    def _load_members(self) -> dict[str, KeyAnnouncement]:
        data = self._store.get(MEMBERS)
        if data is None:
            return {}
        r = MessageReader(data, MEMBERS_KIND, "stored announcements", HERE)
        found = [KeyAnnouncement.from_bytes(blob, HERE) for blob in r.blobs()]
        r.end()
        return {member.site: member for member in found}

    def _save(self, state: unmasking.UnmaskingState) -> None:
        """Write the attempt and its sums, in one file: one write to the disk, and no header without its sums."""
        out = MessageWriter(HEADER_KIND).blob(state.context.descriptor.to_bytes())
        out.blobs(tuple(upload.to_bytes() for upload in state.attempt.uploads.values()))
        out.texts(state.survivors).number(len(state.signatures), 4)
        for site, signature in state.signatures.items():
            out.text(site).fixed_bytes(signature, SIGNATURE_BYTES)
        header = out.bytes()
        sums = (state.attempt.sums[segment.name].data.cast("B") for segment in state.context.layout)
        self._store.put(HEADER, len(header).to_bytes(_LENGTH_BYTES, "little"), header, *sums)

    def _load(self) -> unmasking.UnmaskingState | None:
        data = self._store.get(HEADER)
        if data is None:
            return None
        at = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
        r = MessageReader(data[_LENGTH_BYTES:at], HEADER_KIND, "stored attempt", HERE)
        context = AttemptContext.from_descriptor(AttemptDescriptor.from_bytes(r.blob(), HERE))
        uploads = [MaskedUpload.from_bytes(blob, HERE) for blob in r.blobs()]
        survivors = r.sequence(r.site)
        signatures = dict(r.sequence(lambda: (r.site(), r.fixed_bytes(SIGNATURE_BYTES))))
        r.end()
        sums = {}
        for segment in context.layout:
            size = segment.words * segment.dtype.itemsize
            if len(data) < at + size:
                raise ProtocolViolationError(f"the stored sum of segment {segment.name} is missing or damaged")
            sums[segment.name] = np.frombuffer(data, segment.dtype, segment.words, at).copy()
            at += size
        if len(data) != at:
            raise ProtocolViolationError("the stored attempt is damaged")
        attempt = server_protocol.AttemptState(context, {upload.site: upload for upload in uploads}, sums)
        state = unmasking.fix_survivors(self.lead, attempt, survivors)
        return unmasking.UnmaskingState(attempt, survivors, state.segments, signatures, {})
