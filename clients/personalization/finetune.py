"""Fine-tuning at the end: the last shared model is trained once more at each site, and stays there.

Wang et al., "Federated Evaluation of On-device Personalization", 2019; Cheng et al., "Fine-tuning is Fine in Federated
Learning", 2021. Until then it is FedAvg. The tuned model feeds nothing that is shared: it needs no noise and never
leaves.
"""

from __future__ import annotations

from dataclasses import replace

from clients.personalization.base import LocalTask, Whole
from fedhealth.types import State


class FineTune(Whole):
    """Training of the final model at the site.

    Args:
        steps: optimizer steps of it.

    """

    protected = False

    def __init__(self, steps: int = 20) -> None:
        self.steps = steps

    def personal(self, local: LocalTask) -> State:
        """Return the tuned model after the last round, nothing before."""
        if not local.final:
            return {}
        training = replace(local.task.training, local_steps=self.steps, local_epochs=None)
        return replace(local, task=replace(local.task, training=training)).fit_copy(local.merged)
