"""What lead and sites both ask a personalization method: which parameters it freezes, which arrays are shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fedhealth.config.instantiate import instantiate
from fedhealth.models.multimodal import MultimodalModel
from fedhealth.utils.guarded_part import guard_part


class ModelMethod(Protocol):
    """The half of `clients.personalization.base.Personalization` that needs no data."""

    def freeze(self, model: MultimodalModel) -> None:
        """Freeze the parameters that this method does not train; called at the lead and at every site.

        Raises:
            ConfigError: the model has nothing for this method to work on.

        """

    def select_shared(self, model: MultimodalModel, trained: Sequence[str]) -> list[str]:
        """Return the names of the trained arrays that are shared; the others stay at the site.

        Raises:
            ConfigError: the model has nothing for this method to work on.

        """

    def get_extra_shapes(self, shared: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the method's extra arrays, by name; one about an array of a tower ends in its name."""


def build_model_method(node: Any) -> ModelMethod:
    """Return the personalization method that a configuration names, as far as it needs no data.

    Raises:
        FedhealthError: it cannot be built.

    """
    method: ModelMethod = guard_part(instantiate(node), ModelMethod)
    return method
