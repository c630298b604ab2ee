"""A site's session: loads its memory, takes one step, stores the new memory durably, then hands out the message.

It survives a process per message: everything is in the two stores.
"""

import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from fedhealth.secagg.client import client_protocol
from fedhealth.secagg.client import journal as memory
from fedhealth.secagg.client import quantised_store as keeping
from fedhealth.secagg.primitives.quantize import Vectors
from fedhealth.secagg.protocol.context import Context
from fedhealth.secagg.protocol.errors import RefusedError
from fedhealth.secagg.protocol.messages import Directive, SignRequest, UnmaskRequest
from fedhealth.secagg.protocol.store import Store


class SiteSession:
    """One site in one run.

    Args:
        me: what the site knows and approved.
        journal: a durable store of this run (`FileStore` on disk).
        secrets: a store for keys (`FileStore` on tmpfs, or `MemoryStore` in a warm parent).
        clock: seconds since the epoch.

    """

    def __init__(
        self,
        me: client_protocol.Membership,
        journal: Store,
        secrets: Store,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.me, self._journal, self._secrets, self._clock = me, journal, secrets, clock
        self._accepted = b""

    @property
    def announcement(self) -> bytes | None:
        """Return the latest announcement whose keys are still here, to send it again without a new epoch."""
        secrets = memory.load_secrets(self._secrets)
        return secrets.pending or secrets.announced or None

    @property
    def exchange(self) -> int:
        """Return the latest exchange accepted: the lead must go on above it."""
        return memory.load_journal(self._journal).exchange

    def announce(self, towers: Mapping[str, int]) -> bytes:
        """Return ANNOUNCE under a new epoch. `towers`: {tower: announced weight} of what this site trains."""
        with self._journal.locked():
            journal, secrets = self._load()
            journal, secrets, message = client_protocol.announce(self.me, journal, secrets, towers, int(self._clock()))
            self._save(journal, secrets)
        return message.to_bytes()

    def accept(self, directive: bytes, model_digest: bytes, training_digest: bytes) -> Context:
        """Accept TRAIN; the attempt is burned when this returns. Raises `RefusedError`."""
        found = Directive.from_bytes(directive)
        with self._journal.locked():
            journal, secrets = self._load()
            journal, secrets, context = client_protocol.accept(
                self.me, journal, secrets, found, model_digest, training_digest
            )
            self._save(journal, secrets)
        self._accepted = context.ctx
        return context

    def quantise(self, context: Context, vectors: Mapping[str, Vectors]) -> keeping.Quantised:
        """Turn {segment: {entry: array}} into words."""
        return client_protocol.quantised(self.me, context, vectors)

    def keep(self, quantised: keeping.Quantised) -> None:
        """Store the words beside the secrets, to mask them again after a failed attempt."""
        keeping.save(self._secrets, quantised)

    def kept(self) -> keeping.Quantised | None:
        """Return the words kept last, if any."""
        return keeping.load(self._secrets)

    def forget(self) -> None:
        """Remove the kept words."""
        keeping.forget(self._secrets)

    def upload(
        self, context: Context, quantised: keeping.Quantised, workers: int = 1
    ) -> tuple[bytes, dict[str, NDArray[np.uint8]]]:
        """Return UPLOAD and {segment: packed masked vector}; once for each attempt that this object accepted.

        A crash between `accept` and here loses the attempt: nothing can mask it a second time.
        """
        if context.ctx != self._accepted:
            raise RefusedError("this attempt was not accepted here, or is already masked", rule="R4")
        self._accepted = b""
        secrets = memory.load_secrets(self._secrets)
        head, vectors = client_protocol.upload(self.me, secrets, context, quantised, workers)
        return head.to_bytes(), vectors

    def sign(self, request: bytes) -> bytes:
        """Answer SIGN. Raises `RefusedError`."""
        found = SignRequest.from_bytes(request)
        with self._journal.locked():
            journal, message = client_protocol.endorse(self.me, memory.load_journal(self._journal), found)
            memory.save_journal(self._journal, journal)
        return message.to_bytes()

    def unmask(self, request: bytes) -> bytes:
        """Answer UNMASK; the same list of survivors gets the same bytes again. Raises `RefusedError`.

        The kept words are then part of a sum and are forgotten: masked again, they would show in a difference.
        """
        found = UnmaskRequest.from_bytes(request)
        with self._journal.locked():
            journal, secrets = self._load()
            journal, secrets, answer = client_protocol.unmask(self.me, journal, secrets, found)
            self._save(journal, secrets)
            keeping.forget(self._secrets)
        return answer

    def _load(self) -> tuple[memory.Journal, memory.Secrets]:
        return memory.load_journal(self._journal), memory.load_secrets(self._secrets)

    def _save(self, journal: memory.Journal, secrets: memory.Secrets) -> None:
        """Store the journal first: what it promises holds even if the keys are then lost."""
        memory.save_journal(self._journal, journal)
        memory.save_secrets(self._secrets, secrets)
