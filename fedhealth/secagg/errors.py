"""The error of the protocol, with the violated rule and the parties to blame, for audit logs and replies."""

from fedhealth.errors import SecureAggregationError


class ProtocolViolationError(SecureAggregationError):
    """A message or a state violated the protocol.

    Args:
        problem: what happened; names the sender and the field or rule.
        advice: what to do about it.
        rule: "R1" to "R15", or "" if the message was malformed.
        blame: the parties that the evidence points to: site ids, or "the lead".

    """

    def __init__(self, problem: str, advice: str = "", *, rule: str = "", blame: tuple[str, ...] = ()) -> None:
        super().__init__(f"{rule}: {problem}" if rule else problem, advice)
        self.rule = rule
        self.blame = blame


def refuse_unless(condition: bool, problem: str, *, rule: str = "", blame: tuple[str, ...] = ()) -> None:
    """Raise `ProtocolViolationError` unless the condition holds."""
    if not condition:
        raise ProtocolViolationError(problem, rule=rule, blame=blame)
