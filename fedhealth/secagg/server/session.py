"""The lead's session: one attempt after another, with the survivors on disk before anybody is asked to unmask."""

from collections.abc import Mapping

import numpy as np

from fedhealth.secagg.primitives.codec import Reader, Writer
from fedhealth.secagg.primitives.keys import SIGNATURE_BYTES
from fedhealth.secagg.primitives.packing import Bytes
from fedhealth.secagg.protocol import rules
from fedhealth.secagg.protocol.context import Context
from fedhealth.secagg.protocol.errors import RefusedError
from fedhealth.secagg.protocol.messages import Announcement, Directive, Upload
from fedhealth.secagg.protocol.store import Store, hashed_name
from fedhealth.secagg.server import server_protocol, unmasking

HEADER, COUNTER, MEMBERS = "unmasking", "counter", "members"
HEADER_KIND, COUNTER_KIND, MEMBERS_KIND = 8, 9, 10
HERE = "this lead's own store"


class ServerSession:
    """The lead in one run.

    Killed after `unmask_requests`, a new session over the same store goes on with the same survivors: ask for the
    requests again, and the sites repeat their answers.

    Args:
        lead: what the lead knows of the run.
        store: durable; holds announcements, counters, and the masked sums (not secret) while they are being unmasked.

    """

    def __init__(self, lead: server_protocol.Consortium, store: Store) -> None:
        self.lead, self._store = lead, store
        self.members = self._load_members()
        self._attempt: server_protocol.Attempt | None = None
        self._state = self._load()
        self._asked = self._state is not None

    @property
    def last(self) -> tuple[int, int]:
        """Return the latest (exchange, attempt) opened, (0, 0) at first; survives restarts."""
        data = self._store.read(COUNTER)
        if data is None:
            return 0, 0
        found = Reader(data, COUNTER_KIND, "counter", HERE)
        return found.number(), found.number()

    @property
    def asked(self) -> bool:
        """Tell whether somebody was asked to unmask the latest attempt, also after a restart."""
        return self._asked

    @property
    def survivors(self) -> tuple[str, ...]:
        """Return who is in the sum that is being unmasked. Raises `RefusedError` where none is."""
        return self._unmasking().survivors

    @property
    def context(self) -> Context:
        """Return what the attempt in progress is about."""
        return self._attempt.context if self._attempt else self._unmasking().context

    def register(self, data: bytes, sender: str) -> Announcement:
        """Accept ANNOUNCE from the node that the network calls `sender`; its site id is in what returns.

        Raises `RefusedError`.
        """
        found = server_protocol.register(self.lead, self.members, data, sender)
        self.members[found.site] = found
        blobs = tuple(member.to_bytes() for member in self.members.values())
        self._store.write(MEMBERS, Writer(MEMBERS_KIND).blobs(blobs).bytes())
        return found

    def open(self, plan: server_protocol.Plan) -> bytes:
        """Start an attempt and return TRAIN, the same for every site of the cohort. Raises `RefusedError`."""
        rules.r6_unopened(self._unmasking().context if self._asked else None, plan.exchange)
        if (plan.exchange, plan.attempt) <= self.last:
            raise RefusedError(f"attempt {plan.attempt} of exchange {plan.exchange} was already opened", rule="R4")
        context = server_protocol.propose(self.lead, self.members, plan)
        counter = Writer(COUNTER_KIND).number(plan.exchange).number(plan.attempt)
        self._store.write(COUNTER, counter.bytes())
        self._attempt, self._state, self._asked = server_protocol.begin(context), None, False
        return context.directive.to_bytes()

    def fold(self, data: bytes, vectors: Mapping[str, Bytes], sender: str) -> None:
        """Add an upload to the sums and forget its vectors. Raises `RefusedError`, and no sum has changed."""
        attempt = self._collecting()
        try:
            self._attempt = server_protocol.fold(self.lead, attempt, data, vectors, sender)
        except server_protocol.TagsDifferError as fault:
            self._attempt = server_protocol.conflict(attempt, fault)
            raise

    def close(self) -> tuple[str, ...]:
        """Fix the survivors and return them. Raises `RefusedError` when they are too few: open another attempt."""
        attempt = self._collecting()
        self._state = unmasking.close(self.lead, attempt, server_protocol.survivors(attempt))
        self._attempt = None
        return self._state.survivors

    def sign_request(self) -> bytes | None:
        """Return SIGN for every survivor; None when this attempt needs no signatures."""
        state = self._unmasking()
        return unmasking.sign_request(state) if state.context.directive.signed else None

    def endorse(self, data: bytes, sender: str) -> bool:
        """Add a signature; True once there are enough. Raises `RefusedError`."""
        self._state = unmasking.add_endorsement(self.lead, self._unmasking(), data, sender)
        return self._state.endorsed

    def unmask_requests(self) -> dict[str, bytes]:
        """Store the sums and survivors, then return UNMASK for each survivor. Raises `RefusedError`."""
        state = self._unmasking()
        requests = {site: unmasking.unmask_request(state, site) for site in state.survivors}
        if not self._asked:
            self._save(state)
            self._asked = True
        return requests

    def answer(self, data: bytes, sender: str) -> bool:
        """Add an answer; True once there are enough. Raises `RefusedError`."""
        self._state = unmasking.add_answer(self.lead, self._unmasking(), data, sender)
        return self._state.answered

    def finish(self, workers: int = 1) -> unmasking.Opened:
        """Open the sums, once; after a restart they can be opened again. Raises `RefusedError`."""
        return unmasking.finish(self._unmasking(), workers)

    def _collecting(self) -> server_protocol.Attempt:
        if self._attempt is None:
            raise RefusedError("no attempt is collecting uploads; a late one waits for the next attempt", rule="R6")
        return self._attempt

    def _unmasking(self) -> unmasking.Unmasking:
        if self._state is None:
            raise RefusedError("the survivors of this attempt are not fixed yet", rule="R6")
        return self._state

    def _load_members(self) -> dict[str, Announcement]:
        data = self._store.read(MEMBERS)
        if data is None:
            return {}
        r = Reader(data, MEMBERS_KIND, "stored announcements", HERE)
        found = [Announcement.from_bytes(blob, HERE) for blob in r.several(r.blob)]
        r.end()
        return {member.site: member for member in found}

    def _save(self, state: unmasking.Unmasking) -> None:
        """Write the sums, then the header: a header without its sums cannot exist."""
        self._store.delete(HEADER)
        for name, total in state.attempt.sums.items():
            self._store.write(hashed_name("sum", name), total.data)
        out = Writer(HEADER_KIND).blob(state.context.directive.to_bytes())
        out.blobs(tuple(upload.to_bytes() for upload in state.attempt.uploads.values()))
        out.texts(state.survivors).number(len(state.endorsements), 4)
        for site, signature in state.endorsements.items():
            out.text(site).fixed(signature, SIGNATURE_BYTES)
        self._store.write(HEADER, out.bytes())

    def _load(self) -> unmasking.Unmasking | None:
        data = self._store.read(HEADER)
        if data is None:
            return None
        r = Reader(data, HEADER_KIND, "stored attempt", HERE)
        context = Context.of(Directive.from_bytes(r.blob(), HERE))
        uploads = [Upload.from_bytes(blob, HERE) for blob in r.several(r.blob)]
        survivors = r.several(r.site)
        endorsements = dict(r.several(lambda: (r.site(), r.fixed(SIGNATURE_BYTES))))
        r.end()
        sums = {}
        for segment in context.layout:
            stored = self._store.read(hashed_name("sum", segment.name))
            if stored is None or len(stored) != segment.words * segment.dtype.itemsize:
                raise RefusedError(f"the stored sum of segment {segment.name} is missing or damaged")
            sums[segment.name] = np.frombuffer(stored, dtype=segment.dtype).copy()
        attempt = server_protocol.Attempt(context, {upload.site: upload for upload in uploads}, sums)
        state = unmasking.close(self.lead, attempt, survivors)
        return unmasking.Unmasking(attempt, survivors, state.segments, endorsements, {})
