"""The transport of a site's replies: in plaintext, or masked for secure aggregation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from flwr.app import RecordDict

from clients.context import RunContext, SiteContext
from clients.message import ParsedMessage
from clients.release import Release, ReleaseRecorder
from clients.site_store import SiteStore
from fedhealth.privacy.mechanisms.noise_share import NoiseShare
from fedhealth.protocol.messages import digest_arrays
from fedhealth.site.egress_gate import ReplySchema, Shapes
from fedhealth.types import State
from fedhealth.utils.digest import digest_parts


@dataclass(frozen=True)
class ReplyShapes:
    """The shapes of a reply, derived from the configuration.

    Attributes:
        update: of the shared arrays; empty unless the site trains.
        statistics: of the statistics.
        sensitivity: of the tables among them whose noise the sites share; 0 if there are none.

    """

    update: Shapes
    statistics: Shapes
    sensitivity: float = 0.0


class UploadAttempt(Protocol):
    """One accepted attempt to upload a reply.

    Attributes:
        recorder: of the releases of private words.

    """

    recorder: ReleaseRecorder

    def is_aggregated(self, tower: str) -> bool:
        """Return whether the tower is part of the sum; otherwise each site that trains it keeps it local."""

    def get_noise_shares(self) -> Mapping[str, NoiseShare] | None:
        """Return this site's share of the noise by array or table; None if each site adds its own."""

    def load_private(self, store: SiteStore, number: int) -> State:
        """Return the private arrays from before round `number`.

        Raises:
            PrivacyError: they are too old for this site's policy.
            RequestMismatchError: they were deleted.

        """

    def save_private(self, store: SiteStore, number: int, arrays: State, digest: str) -> None:
        """Store what round `number`, whose words have a digest, leaves at the site."""

    def load_cached_reply(self) -> RecordDict | None:
        """Return the stored reply to the same request, for redelivery; None if there is work to do.

        Private words are returned only if their release is recorded. After a crash between the two it is recorded
        here; if no open booking pays for the words, they are deleted.
        """

    def build_reply(self, update: State, statistics: Mapping[str, np.ndarray], release: Release) -> RecordDict:
        """Store the words durably, then record their release, then return the records of the reply."""


class Transport(Protocol):
    """Plaintext or secure aggregation.

    Attributes:
        is_plaintext: whether the lead sees each site's own reply.

    """

    is_plaintext: bool

    def announce(
        self, run: RunContext, rows: Mapping[str, int], noise: tuple[float, float] = (0.0, 0.0)
    ) -> tuple[dict[str, float], RecordDict]:
        """Return the weights to announce for training rows by tower, and the records to add to the acceptance.

        Args:
            run: site and run.
            rows: by tower.
            noise: the least noise multipliers that the site accepts in sums of models and of statistics whose noise is
                shared.

        """

    def count_noise_shares(self, site: SiteContext) -> int:
        """Return the most honest sites that the noise of a sum can count on; 1 if each site adds its own noise."""

    def get_last_exchange(self, run: RunContext) -> int:
        """Return the latest exchange of the run that this site accepted; 0 if the transport does not record it."""

    def accept_attempt(
        self,
        run: RunContext,
        message: ParsedMessage,
        incoming: State,
        recorder: ReleaseRecorder,
        shapes: ReplyShapes,
        digest_initial: Callable[[], bytes],
    ) -> UploadAttempt:
        """Accept an attempt before any work is done for it; the reply will have these shapes.

        Args:
            run: site and run.
            message: of the lead.
            incoming: its shared arrays.
            recorder: of the releases of private words.
            digest_initial: returns the SHA-256 of the model's initial shared arrays.

        Raises:
            FedhealthError: the lead asks for something that would reveal a single site.

        """

    def identify_reply(self, run: RunContext, content: RecordDict, recorder: ReleaseRecorder) -> Release:
        """Return the release of the words in a reply, for the egress gate."""

    def handle_message(self, run: RunContext, message: ParsedMessage) -> RecordDict:
        """Reply to a message of the transport's own protocol."""

    def get_reply_schema(self, run: RunContext, kind: str, shapes: ReplyShapes) -> ReplySchema:
        """Return which records the reply to a kind of message may hold beside the acceptance."""


def compute_request_digest(run: RunContext, message: ParsedMessage, incoming: State) -> str:
    """Return the digest of a request: equal after a restart, different in every round."""
    model = digest_incoming(message, incoming)
    parts = (run.run.encode(), message.kind.encode(), str(message.directive.round).encode(), model)
    return digest_parts(b"fedhealth request 2", *parts).hex()


def digest_incoming(message: ParsedMessage, incoming: State) -> bytes:
    """Return the SHA-256 of incoming arrays; those of a message are hashed once."""
    return message.model_digest if incoming and incoming is message.arrays else digest_arrays(incoming)
