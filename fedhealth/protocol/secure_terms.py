"""What the lead and the sites of an own Flower app agree on before a run with secure aggregation.

Both sides build the same object from their own code; nothing of it is taken from a message. The hospitals' own client
takes the same from its approved configuration instead.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256

from fedhealth.protocol.messages import EVALUATE, TRAIN

EXAMPLES = "examples"


@dataclass(frozen=True)
class SecureTerms:
    """The terms of one run.

    Attributes:
        run: the run's id, never used twice.
        sites: names of all sites; lower case.
        train_metrics: names of metrics in the clients' training replies; the lead learns their weighted means.
        evaluate_metrics: the same of the evaluation of the final model.
        bits: transmitted for each value of the model, 16 to 32.
        clipping_range: largest magnitude of one value in a site's update; a site refuses to send more.

    """

    run: str
    sites: tuple[str, ...]
    train_metrics: tuple[str, ...] = ()
    evaluate_metrics: tuple[str, ...] = ()
    bits: int = 32
    clipping_range: float = 8.0

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the terms, hexadecimal: a site takes part only in a run with the same."""
        return sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @cached_property
    def statistics(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """By message type, the shape of every statistic in a site's reply: the examples, and a sum for each metric."""
        named = {TRAIN: ("train", self.train_metrics), EVALUATE: ("evaluate", self.evaluate_metrics)}
        return {
            kind: {f"{task}.{name}": (1,) for name in (EXAMPLES, *metrics)} for kind, (task, metrics) in named.items()
        }
