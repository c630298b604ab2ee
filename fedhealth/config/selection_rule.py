"""Which round of a run may be exported: derived from the configuration alone, by the lead and by every site."""

from __future__ import annotations

from fedhealth.config.capabilities import get_capability, is_private_trainer
from fedhealth.config.schema import Config, Select

PRIVATE_RULE = (
    "Under differential privacy no single round has a score, because each score would cost privacy budget. The last "
    "round is exported, which costs nothing"
)
LOCAL_RULE = "The hospitals keep their own layers of the newest rounds only, so the last round is exported"


def find_selection_rule(config: Config) -> tuple[Select, str]:
    """Return the rule in force, and why it is not the one that `strategy.select` names; empty if it is."""
    if config.strategy.select is Select.last:
        return Select.last, ""
    if is_private_trainer(config.privacy):
        return Select.last, PRIVATE_RULE
    if get_capability(config.personalization, "keeps_arrays", default=True):
        return Select.last, LOCAL_RULE
    return Select.best, ""


def may_end_early(config: Config) -> bool:
    """Return whether the final evaluation may follow any round, instead of the last planned one only."""
    return find_selection_rule(config)[0] is Select.best or config.strategy.patience is not None
