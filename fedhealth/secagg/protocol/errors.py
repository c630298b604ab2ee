"""The one error of the protocol, with the rule it broke and who is to blame, for audit logs and replies."""

from fedhealth.errors import SecureAggregationError


class RefusedError(SecureAggregationError):
    """A message or a state broke the protocol.

    Args:
        problem: what happened; names the sender and the field or rule.
        advice: what to do about it.
        rule: "R1" to "R9", or "" when the message was not even well formed.
        blame: the parties the evidence points to: site ids, or "the server".

    """

    def __init__(self, problem: str, advice: str = "", *, rule: str = "", blame: tuple[str, ...] = ()) -> None:
        super().__init__(f"{rule}: {problem}" if rule else problem, advice)
        self.rule = rule
        self.blame = blame


def refuse_unless(condition: bool, problem: str, *, rule: str = "", blame: tuple[str, ...] = ()) -> None:
    """Raise `RefusedError` when the condition does not hold."""
    if not condition:
        raise RefusedError(problem, rule=rule, blame=blame)
