"""Local adapters: all trained arrays are shared except the low-rank adapters of the pretrained encoders.

LoRA: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022. Adapters that stay at the site:
Yang et al., "Dual-Personalizing Adapter for Federated Foundation Models", NeurIPS 2024. The gradients of the
shared layers above depend on the adapters, so private training adds noise to the adapters as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from clients.personalization.base import BasePersonalization
from fedhealth.config.capabilities import LORA_ADAPTERS
from fedhealth.errors import ConfigError
from fedhealth.models.multimodal import MultimodalModel

LORA = ".lora_"  # as peft names them: ...lora_A.default.weight


class LocalAdapters(BasePersonalization):
    """Keep the adapters local and share all other arrays."""

    requires = (LORA_ADAPTERS,)

    def select_shared(self, model: MultimodalModel, trained: Sequence[str]) -> list[str]:
        """Return the arrays that are not adapters."""
        require_adapters(trained)
        return [name for name in trained if LORA not in name]


def require_adapters(trained: Iterable[str]) -> None:
    """Check that the model has adapters.

    Raises:
        ConfigError: no array belongs to an adapter.

    """
    if not any(LORA in name for name in trained):
        raise ConfigError("The model has no LoRA adapters.", "Give a pretrained tower adapters, or use another method.")
