"""Fine-tuning: after the last round each site trains the final shared model once more, and keeps the result.

Wang et al., "Federated Evaluation of On-device Personalization", 2019; Cheng et al., "Fine-tuning is Fine in Federated
Learning", 2021. Until then it is FedAvg. Nothing that is shared depends on the fine-tuned model, so it needs no noise,
and it never leaves the site.
"""

from __future__ import annotations

from dataclasses import replace

from clients.personalization.base import BasePersonalization, LocalRound
from fedhealth.types import State


class FineTune(BasePersonalization):
    """Fine-tune the final model at the site.

    Args:
        steps: optimizer steps of the fine-tuning.

    """

    personal_model_is_dp = False
    sends_plain_gradients = True
    keeps_arrays = False

    def __init__(self, steps: int = 20) -> None:
        self.steps = steps

    def get_personal_arrays(self, local: LocalRound) -> State:
        """Return the fine-tuned model after the last round; empty before."""
        if not local.is_final:
            return {}
        training = replace(local.task.training, local_steps=self.steps, local_epochs=None)
        return replace(local, task=replace(local.task, training=training)).fit_copy(local.merged)
