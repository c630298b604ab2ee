"""FFA-LoRA: A keeps its initial values; only B is trained and shared.

Sun et al., "Improving LoRA in Privacy-preserving Federated Learning", ICLR 2024.

The mean of the products B_k A_k differs from the product of the means; with one A for all sites both are equal. Noise
enters the update once instead of twice (noise on B times noise on A).
"""

from __future__ import annotations

from clients.personalization.adapters import LORA, require_adapters
from clients.personalization.base import BasePersonalization
from fedhealth.config.capabilities import LORA_HALVES
from fedhealth.models.multimodal import MultimodalModel


class FrozenALora(BasePersonalization):
    """Share adapters with a frozen A; every site initializes A from the run's seed."""

    requires = (LORA_HALVES,)
    sends_plain_gradients = True
    keeps_arrays = False

    def freeze(self, model: MultimodalModel) -> None:
        """Freeze every A."""
        require_adapters(name for name, parameter in model.named_parameters() if parameter.requires_grad)
        for name, parameter in model.named_parameters():
            if f"{LORA}A." in name:
                parameter.requires_grad_(False)
