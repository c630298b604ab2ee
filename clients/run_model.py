"""A run's model in one process: hospitals have one each, the virtual sites of a process share one.

Sites of a process work one after another, and each task overwrites the trained arrays first. What a site's task changes
beside them (a layer's counter of batches) is put back, so that no task depends on which site had the model before.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from clients.personalization.base import Personalization
from fedhealth.config.instantiate import instantiate
from fedhealth.config.schema import Config
from fedhealth.models.model_state import get_model_arrays, list_trained_arrays, view_model_arrays
from fedhealth.models.module_state import ModuleState
from fedhealth.models.multimodal import MultimodalModel, build_model
from fedhealth.protocol.messages import digest_arrays
from fedhealth.training.devices import select_device, set_thread_count
from fedhealth.types import State
from fedhealth.utils.guarded_part import guard_part


@dataclass(frozen=True)
class InitialModel:
    """What is kept of the initial model; of its shared arrays only the digest, because the lead sends them.

    Attributes:
        names: of all trained arrays.
        own: those that are not shared.
        digest: SHA-256 of the shared ones.

    """

    names: frozenset[str]
    own: State
    digest: bytes


class RunModel:
    """Builds the model when it is needed.

    Args:
        config: the configuration of the run.

    """

    def __init__(self, config: Config) -> None:
        self._config = config

    @property
    def model(self) -> MultimodalModel:
        """The model; it holds what the last task has left."""
        return self._built[0]

    @property
    def initial(self) -> InitialModel:
        """The model as initialized from the configuration's seed."""
        return self._built[1]

    def reset(self) -> None:
        """Put back everything of the model but its parameters and the values of trained buffers."""
        self._built[2].restore()

    @cached_property
    def _built(self) -> tuple[MultimodalModel, InitialModel, ModuleState]:
        """The model, and what is kept of it before any site trains it."""
        set_thread_count(self._config.training)
        model = build_model(self._config.model, self._config.data, self._config.seed)
        personalization = guard_part(instantiate(self._config.personalization), Personalization)
        personalization.freeze(model)
        model = model.to(select_device(self._config.training.device))
        names = list_trained_arrays(model)
        shared = personalization.select_shared(model, names)
        own = get_model_arrays(model, sorted(set(names) - set(shared)))
        initial = InitialModel(frozenset(names), own, digest_arrays(view_model_arrays(model, shared)))
        return model, initial, ModuleState(model, initial.names)
