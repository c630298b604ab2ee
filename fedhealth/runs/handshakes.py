"""What the hospitals replied to a run's handshake, from its events."""

from __future__ import annotations

from dataclasses import dataclass

from fedhealth.errors import ConfigError
from fedhealth.runs.damage import explain_damage
from fedhealth.runs.run_dir import RunDir


@dataclass(frozen=True)
class HandshakeReply:
    """A hospital's reply.

    Attributes:
        time: when it arrived, seconds since 1970.
        site: whose it is.
        reasons: why it declined; empty if it accepted.
        fix: what to do about them.

    """

    time: float
    site: str
    reasons: tuple[str, ...]
    fix: str


def read_handshakes(run: RunDir) -> list[HandshakeReply]:
    """Return the replies in their order; none of a run whose events are damaged: the page of runs names it."""
    try:
        with explain_damage(run.path / "events.jsonl"):
            return [
                HandshakeReply(
                    float(event["time"]),
                    str(event["site"]),
                    tuple(map(str, event["reasons"])),
                    str(event.get("fix", "")),
                )
                for event in run.read_events()[0]
                if event["event"] == "handshake"
            ]
    except ConfigError:
        return []
