"""One accepted attempt at a masked upload, and what it leaves at the site."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flwr.app import ConfigRecord, RecordDict

from clients.context import RunContext
from clients.release import Release, ReleaseRecorder
from clients.site_store import SiteStore
from clients.transport import contributors
from clients.transport.contributors import KeptUpload
from clients.transport.history import HistoryBook
from fedhealth.errors import ModelError, PrivacyError
from fedhealth.privacy.mechanisms.noise_share import NoiseShare
from fedhealth.protocol.array_codec import PackedArrays, make_packed_arrays, pack_arrays
from fedhealth.protocol.messages import SEALED, SECAGG
from fedhealth.secagg.client.quantized_store import QuantizedUpdate
from fedhealth.secagg.client.session import SiteSession
from fedhealth.secagg.client.vector_rules import digest_input
from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.protocol.context import AttemptContext
from fedhealth.secagg.protocol.layout_plan import STATISTICS_SEGMENTS
from fedhealth.secagg.protocol.store import StateStore
from fedhealth.types import State


class SecureAttempt:
    """One accepted attempt; its masks can be used once."""

    def __init__(
        self,
        session: SiteSession,
        secrets: StateStore,
        context: AttemptContext,
        run: RunContext,
        recorder: ReleaseRecorder,
        history: HistoryBook,
    ) -> None:
        self._session, self._secrets, self._context, self._run = session, secrets, context, run
        self.recorder, self._history = recorder, history
        self._vector = context.descriptor.vector_digest.hex()
        self._owned = {segment.name: segment for segment in context.owned_segments(run.site.name)}

    def is_aggregated(self, tower: str) -> bool:
        """Return whether enough sites train the tower for it to be summed, with or without this site."""
        return any(
            segment.tower == tower and segment.name not in STATISTICS_SEGMENTS for segment in self._context.layout
        )

    def get_noise_shares(self) -> dict[str, NoiseShare] | None:
        """Return this site's share of the noise by array or table, from the attempt's layout; None without shares."""
        noised = [segment for segment in self._owned.values() if segment.kind == "noised"]
        return {
            entry.name: NoiseShare(segment.share_std, entry.step, entry.bound, segment.shares, entry.length)
            for segment in noised
            for entry in segment.entries
        } or None

    def load_private(self, store: SiteStore, number: int) -> State:
        """Return the private arrays that the history of the request ends with; rounds never opened left none."""
        missed, arrays = store.load_round(self._history.list_rounds(self._context.descriptor.history))
        limit = self._run.site.limits.absent_rounds
        if arrays and not self.recorder.is_private and limit is not None and missed > limit:
            problem = f"This site missed {missed} rounds in a row; its local layers are of the round before."
            raise PrivacyError(problem, "See limits.absent_rounds in site.yaml. Nothing was sent.")
        return arrays

    def save_private(self, store: SiteStore, number: int, arrays: State, digest: str) -> None:
        """Store what the round leaves at the site; it counts once its sum is known to be opened."""
        descriptor = self._context.descriptor
        source = digest_input(descriptor).hex()
        store.save_round(descriptor.vector.repetition, source, arrays, digest, self._history.list_opened())

    def load_cached_reply(self) -> RecordDict | None:
        """Mask the stored words again if this vector was asked for before; `accept` has checked that it may be."""
        upload = contributors.load_upload(self._secrets)
        quantized = self._session.load_quantized() if upload.vector == self._vector else None
        if quantized is None:
            return None
        digests = {name: digest for name, (digest, _, _) in quantized.segments.items()}
        if digests != {name: segment.digest for name, segment in self._owned.items()}:
            return None  # another cohort has another layout
        if not self.recorder.confirm(upload.release):
            self._session.delete_quantized()
            return None
        return self._mask(quantized, self._make_buffers())

    def build_reply(self, update: State, statistics: Mapping[str, np.ndarray], release: Release) -> RecordDict:
        """Quantize, store, record the release and mask; statistics that may not leave are sent as zeros.

        What holds a share of the noise is never replaced by zeros, which would have none.
        """
        vectors: dict[str, dict[str, np.ndarray]] = {}
        for segment in self._owned.values():
            values = statistics if segment.name in STATISTICS_SEGMENTS else update
            absent = [] if segment.kind == "noised" else [e for e in segment.entries if e.name not in values]
            vectors[segment.name] = {e.name: values[e.name].reshape(-1) for e in segment.entries if e.name in values}
            vectors[segment.name] |= {e.name: np.zeros(e.length, np.int64) for e in absent}
        sealed = self._make_buffers()
        try:
            quantized = self._session.quantize(self._context, vectors, sealed)
        except ProtocolViolationError as fault:  # about the site's own values, not about the lead's request
            raise ModelError(fault.problem, fault.advice) from fault
        purpose, is_private = self._context.descriptor.vector.purpose, self.recorder.is_private
        repeated = contributors.name_repeated_words(self._run, purpose, release, is_private)
        upload = KeptUpload(self._vector, release, repeated)
        # a crash must not leave the new words with the release of the old ones
        contributors.delete_upload(self._secrets)
        self._session.save_quantized(quantized)
        contributors.save_upload(self._secrets, upload)
        self.recorder.record(release)
        return self._mask(quantized, sealed)

    def _make_buffers(self) -> PackedArrays:
        """Return where the words are quantized, masked and sent from."""
        return make_packed_arrays({name: (segment.wire_bytes,) for name, segment in self._owned.items()}, "|u1")

    def _mask(self, quantized: QuantizedUpdate, sealed: PackedArrays) -> RecordDict:
        head, _ = self._session.mask_upload(self._context, quantized, out=sealed)
        return RecordDict({SECAGG: ConfigRecord({"head": head}), SEALED: pack_arrays(sealed)})
