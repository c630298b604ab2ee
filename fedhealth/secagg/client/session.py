"""A site's session: load the state, do one step, store the new state durably, then return the message.

Every message may be handled by another process, because all state is in the two stores.
"""

import time
from collections.abc import Callable, Mapping, Sequence

from fedhealth.secagg.client import client_protocol, journal_rules, opening_steps, quantized_store
from fedhealth.secagg.client import journal as site_journal
from fedhealth.secagg.client.announcement_rules import r14_shows_what_is_known
from fedhealth.secagg.client.credentials import SiteCredentials
from fedhealth.secagg.client.statement_book import StatementBook
from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.primitives.packing import PackedWords
from fedhealth.secagg.primitives.quantize import Vectors
from fedhealth.secagg.protocol.abandon import AbandonRequest
from fedhealth.secagg.protocol.context import AttemptContext
from fedhealth.secagg.protocol.messages import AttemptDescriptor, KeyAnnouncement, SignRequest, UnmaskRequest
from fedhealth.secagg.protocol.statement import StateNotice
from fedhealth.secagg.protocol.store import StateStore

SumCallback = Callable[[AttemptContext, tuple[str, ...]], None]
"""Called with an attempt and the survivors whose sum is about to be signed for or opened."""


class SiteSession:
    """One site in one run.

    Args:
        me: the site's own identity, roster and policy.
        journal: a durable store of this run (`FileStore` on disk).
        secrets: a store for keys (`FileStore` on tmpfs, or `MemoryStore` in a long-lived process).
        statements: the site's own statements and the others' latest, of all runs.
        clock: seconds since the epoch.

    """

    def __init__(
        self,
        me: SiteCredentials,
        journal: StateStore,
        secrets: StateStore,
        statements: StatementBook,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.me, self._journal, self._secrets, self._clock = me, journal, secrets, clock
        self._statements = statements
        self._accepted = b""
        self._parsed: tuple[bytes | None, site_journal.Journal] = (None, site_journal.Journal())

    @property
    def announcement(self) -> bytes | None:
        """Return the latest announcement whose keys are still stored, to resend it without a new epoch."""
        secrets = site_journal.load_secrets(self._secrets)
        return secrets.pending or secrets.announced or None

    @property
    def exchange(self) -> int:
        """Return the latest accepted exchange; the lead must continue above it."""
        return self._load_journal().exchange

    def announce(self, towers: Mapping[str, int], noise: tuple[float, float] = (0.0, 0.0)) -> bytes:
        """Return ANNOUNCE for a new epoch.

        Args:
            towers: {tower: announced weight} that this site trains.
            noise: the least noise multipliers that it accepts in sums of models and of statistics whose noise is
                shared.

        """
        own = self._statements.issue_statement(self.me.run, self.exchange)
        shown = self._statements.name_known_statements()
        with self._journal.lock():
            journal, secrets = self._load()
            journal, secrets, message = client_protocol.announce_key(
                self.me, journal, secrets, towers, int(self._clock()), own, shown, noise
            )
            self._save(journal, secrets)
        return message.to_bytes()

    def accept(
        self,
        descriptor: bytes,
        model_digest: bytes,
        training_digest: bytes,
        derive_layout: client_protocol.DeriveLayout,
        certificates: Sequence[bytes] = (),
        shown: Sequence[bytes] = (),
        envelopes: bytes = b"",
    ) -> AttemptContext:
        """Accept TRAIN; the attempt is burned when this returns. Raises `ProtocolViolationError`.

        Raises `RestoredSiteError` if a member shows that this machine was restored from an older copy.

        Args:
            descriptor: TRAIN.
            model_digest: SHA-256 of the model that arrived with it, computed here.
            training_digest: SHA-256 of the training directives that arrived with it, computed here.
            derive_layout: returns the layout for the members' announcements, from what this site approved.
            certificates: of abandoned attempts (see `abandon_attempt`).
            shown: this site's own statements that the members' announcements name.
            envelopes: UNMASK of the attempt before, for a site whose reply the lead does not have; empty otherwise.

        """
        self._statements.require_current()
        found = AttemptDescriptor.from_bytes(descriptor)
        with self._journal.lock():
            journal, secrets = self._load()
            pending = secrets.pending
            renews_keys = pending in found.members
            if envelopes and journal_rules.needs_envelopes(journal, found, renews_keys=renews_keys):
                journal = self._read_envelopes(journal, secrets, envelopes)
            journal, secrets, context = client_protocol.accept_attempt(
                self.me, journal, secrets, found, model_digest, training_digest, derive_layout, certificates
            )
            if renews_keys:
                own = KeyAnnouncement.from_bytes(pending, self.me.site)
                r14_shows_what_is_known(own, context.members, self._statements.load_known_statements())
            self._statements.learn_announcements(context.members, shown)
            self._save(journal, secrets)
        self._accepted = context.ctx
        return context

    def quantize(
        self, context: AttemptContext, vectors: Mapping[str, Vectors], out: Mapping[str, PackedWords] | None = None
    ) -> quantized_store.QuantizedUpdate:
        """Quantize {segment: {entry: array}}, into `out` ({segment: bytes of its wire size}) if it is given."""
        return client_protocol.quantize_update(self.me, context, vectors, out)

    def save_quantized(self, quantized: quantized_store.QuantizedUpdate) -> None:
        """Store the words with the secrets, to mask them again after a failed attempt."""
        quantized_store.save_quantized(self._secrets, quantized)

    def load_quantized(self) -> quantized_store.QuantizedUpdate | None:
        """Return the stored words, if any."""
        return quantized_store.load_quantized(self._secrets)

    def delete_quantized(self) -> None:
        """Delete the stored words."""
        quantized_store.delete_quantized(self._secrets)

    def mask_upload(
        self,
        context: AttemptContext,
        quantized: quantized_store.QuantizedUpdate,
        workers: int = 1,
        out: Mapping[str, PackedWords] | None = None,
    ) -> tuple[bytes, dict[str, PackedWords]]:
        """Return UPLOAD and {segment: packed masked vector}; once for each attempt that this object accepted.

        A crash between `accept` and this call loses the attempt: it cannot be masked a second time.

        Args:
            context: of the attempt.
            quantized: this site's words; they stay as they are unless they lie in `out`.
            workers: threads.
            out: {segment: bytes of its wire size} to write the masked vectors to; None makes new ones.

        """
        if context.ctx != self._accepted:
            raise ProtocolViolationError("this attempt was not accepted here, or is already masked", rule="R4")
        self._accepted = b""
        secrets = site_journal.load_secrets(self._secrets)
        own = self._statements.issue_statement(self.me.run, context.descriptor.exchange)
        known = self._statements.load_known_statements()
        notices = {site: StateNotice(own, known.get(site, ())).to_bytes() for site in context.cohort}
        head, vectors = client_protocol.mask_upload(self.me, secrets, context, quantized, notices, workers, out)
        return head.to_bytes(), vectors

    def sign_survivors(self, request: bytes, check_sum: SumCallback = lambda context, survivors: None) -> bytes:
        """Return the reply to SIGN. Raises `ProtocolViolationError`.

        Args:
            request: SIGN.
            check_sum: called with the attempt and the survivors before anything is stored; it may refuse the sum.

        """
        found = SignRequest.from_bytes(request)
        with self._journal.lock():
            journal, message = opening_steps.sign_survivors(self.me, self._load_journal(), found)
            check_sum(_build_context(journal), found.survivors)
            site_journal.save_journal(self._journal, journal)
        return message.to_bytes()

    def reply_unmask(self, request: bytes, record_sum: SumCallback = lambda context, survivors: None) -> bytes:
        """Return the reply to UNMASK; the same bytes for the same survivors. Raises `ProtocolViolationError`.

        The words stay until the next vector: if enough other sites abandon the attempt, they may be masked again.

        Args:
            request: UNMASK.
            record_sum: called with the attempt and the survivors before anything is stored; it may refuse the sum.

        """
        found = UnmaskRequest.from_bytes(request)
        self._statements.require_current()
        with self._journal.lock():
            journal, secrets = self._load()
            answered = journal.unmask_reply
            journal, secrets, reply, notices = opening_steps.reply_unmask(self.me, journal, secrets, found)
            self._statements.learn_notices(notices, must_keep=True)
            if not answered:
                record_sum(_build_context(journal), found.survivors)
            self._save(journal, secrets)
        return reply

    def abandon_attempt(self, request: bytes) -> bytes:
        """Return the reply to ABANDON; the latest attempt is never answered afterwards.

        Raises `ProtocolViolationError` if it was answered before.
        """
        found = AbandonRequest.from_bytes(request)
        self._statements.require_current()
        with self._journal.lock():
            journal, message = opening_steps.abandon_attempt(self.me, self._load_journal(), found)
            site_journal.save_journal(self._journal, journal)
        return message.to_bytes()

    def _read_envelopes(
        self, journal: site_journal.Journal, secrets: site_journal.Secrets, envelopes: bytes
    ) -> site_journal.Journal:
        """Learn what the others sealed to this site in the latest attempt."""
        found = UnmaskRequest.from_bytes(envelopes)
        journal, notices = opening_steps.read_envelopes(self.me, journal, secrets, found)
        self._statements.learn_notices(notices, must_keep=False)
        return journal

    def _load(self) -> tuple[site_journal.Journal, site_journal.Secrets]:
        return self._load_journal(), site_journal.load_secrets(self._secrets)

    def _load_journal(self) -> site_journal.Journal:
        """Read the journal; the same bytes are parsed once."""
        data = self._journal.get(site_journal.JOURNAL)
        if data != self._parsed[0]:
            self._parsed = data, site_journal.parse_journal(data)
        return self._parsed[1]

    def _save(self, journal: site_journal.Journal, secrets: site_journal.Secrets) -> None:
        """Save the journal first, so that it is valid even if the keys are lost afterwards."""
        site_journal.save_journal(self._journal, journal)
        site_journal.save_secrets(self._secrets, secrets)


def _build_context(journal: site_journal.Journal) -> AttemptContext:
    """Return the context of the latest accepted attempt."""
    return AttemptContext.from_descriptor(AttemptDescriptor.from_bytes(journal.descriptor))
