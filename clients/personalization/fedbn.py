"""FedBN: normalisation layers stay local.

Li et al., "FedBN: Federated Learning on Non-IID Features via Local Batch Normalization", ICLR 2021, algorithm 1: w_l is
averaged for every layer l that is not a normalisation layer.

The paper keeps batch normalization local; here all normalization layers stay local, with scale, shift and running
statistics, because private training uses group normalization and text encoders use layer normalization.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from clients.personalization.base import BasePersonalization
from fedhealth.errors import ConfigError
from fedhealth.models.multimodal import MultimodalModel

_NORM = re.compile(r"Norm(\dd)?$")  # BatchNorm2d, LayerNorm, GroupNorm, RMSNorm, and libraries' own of that name


class FedBN(BasePersonalization):
    """Keep the normalization layers local."""

    def select_shared(self, model: MultimodalModel, trained: Sequence[str]) -> list[str]:
        """Return the arrays outside normalization layers."""
        layers = {name for name, module in model.named_modules() if _is_normalization(module)}
        shared = [name for name in trained if name.rpartition(".")[0] not in layers]
        if len(shared) == len(trained):
            raise ConfigError("personalization=fedbn: the model trains no normalization layer.", "Use another method.")
        return shared


def _is_normalization(module: nn.Module) -> bool:
    return any(_NORM.search(kind.__name__) for kind in type(module).__mro__)
