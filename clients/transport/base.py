"""What the institution asks of an upload: how its answers leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import numpy as np
from flwr.app import RecordDict

from fedhealth.protocol.messages import Directive, digest_of
from fedhealth.site.egress_gate import Outgoing, Shapes
from fedhealth.types import State


@dataclass(frozen=True)
class Seat:
    """A site's place in a run.

    Attributes:
        run: its id.
        site: the site's name.
        folder: the site's private folder, outliving the run.
        arrays: the folder of what it keeps for this run.
        keys: the folder of its identity key.
        digest: of the configuration.

    """

    run: str
    site: str
    folder: Path
    arrays: Path
    keys: Path
    digest: str


class Ticket(Protocol):
    """One accepted attempt."""

    def sums(self, tower: str) -> bool:
        """Return whether the tower is part of the sum; otherwise it stays local wherever it is trained."""

    def kept(self) -> RecordDict | None:
        """Return the answer again if the same question was answered already, None if there is work to do."""

    def seal(self, update: State, statistics: Mapping[str, np.ndarray]) -> RecordDict:
        """Return the records of the answer."""


class Upload(Protocol):
    """Open or sealed; `alone` where the lead sees each site's own answer."""

    alone: bool

    def join(self, seat: Seat, rows: Mapping[str, int]) -> tuple[dict[str, float], RecordDict]:
        """Return the weights to announce for training rows by tower, and what goes with the acceptance."""

    def last_exchange(self, seat: Seat) -> int:
        """Return the latest exchange of the run that this site accepted; 0 where that is of no consequence."""

    def accept(self, seat: Seat, kind: str, directive: Directive, incoming: State, content: RecordDict) -> Ticket:
        """Agree to an attempt before any work is done for it.

        Raises:
            FedhealthError: the lead asks for something that would reveal a single site.

        """

    def answer(self, seat: Seat, kind: str, content: RecordDict) -> RecordDict:
        """Answer one of the upload's own messages."""

    def outgoing(self, seat: Seat, kind: str, update: Shapes, statistics: Shapes) -> Outgoing:
        """Return what an answer to a message of this kind may hold beside the acceptance.

        Args:
            seat: the site's.
            kind: of the message that is answered.
            update: arrays that are shared.
            statistics: vectors that may be sent.

        """


def question_of(seat: Seat, kind: str, directive: Directive, incoming: State) -> str:
    """Return a digest of what a site is asked: the same again after a restart, another in every round."""
    words = f"{seat.run}|{kind}|{directive.round}|{digest_of(incoming).hex()}"
    return sha256(words.encode()).hexdigest()
