"""Local adapters: everything that is trained travels but the low-rank adapters of the pretrained encoders.

LoRA: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022. Kept at the site as personalisation:
Yang et al., "Dual-Personalizing Adapter for Federated Foundation Models", NeurIPS 2024. They feed the gradients of the
shared layers above them, so private training noises them as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from clients.personalization.base import Whole
from fedhealth.errors import ConfigError
from fedhealth.models.multimodal import MultimodalModel

LORA = ".lora_"  # as peft names them: ...lora_A.default.weight


class LocalAdapters(Whole):
    """Local adapters, a shared rest."""

    def shared(self, model: MultimodalModel, trained: Sequence[str]) -> list[str]:
        """Return what is no adapter."""
        need_adapters(trained)
        return [name for name in trained if LORA not in name]


def need_adapters(trained: Iterable[str]) -> None:
    """Refuse a model without adapters.

    Raises:
        ConfigError: no array is an adapter's.

    """
    if not any(LORA in name for name in trained):
        raise ConfigError("The model has no LoRA adapters.", "Give a pretrained tower some, or use another method.")
