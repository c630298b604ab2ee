"""FFA-LoRA: A stays as it was drawn, only B is trained and travels.

Sun et al., "Improving LoRA in Privacy-preserving Federated Learning", ICLR 2024.

The mean of products B_k A_k is not the product of means; with one A for all it is. And noise enters the update once
instead of twice (noise on B times noise on A).
"""

from __future__ import annotations

from clients.personalization.adapters import LORA, need_adapters
from clients.personalization.base import Whole
from fedhealth.models.multimodal import MultimodalModel


class FrozenALora(Whole):
    """Shared adapters with a frozen A, drawn from the run's seed at every site."""

    def freeze(self, model: MultimodalModel) -> None:
        """Freeze every A."""
        need_adapters(name for name, parameter in model.named_parameters() if parameter.requires_grad)
        for name, parameter in model.named_parameters():
            if f"{LORA}A." in name:
                parameter.requires_grad_(False)
