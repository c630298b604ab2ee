"""Checkpoints of optimizer steps within a round: a killed worker resumes the round instead of starting it again.

Plain training resumes bit for bit: the checkpoint holds the weights, the optimizer state and the random generators.
Private training resumes the same mechanism; its round was booked before the first step. The file never leaves the site.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from fedhealth.protocol.messages import digest_arrays
from fedhealth.utils.atomic_io import write_atomic
from fedhealth.utils.digest import TranscriptDigest

log = logging.getLogger("fedhealth.site")

EVERY_SECONDS = 60.0  # of training between two checkpoints: the most that a crash costs
_MODEL, _OPTIMIZER, _GENERATOR, _CUDA = "model.", "optimizer.", "generator", "generator.cuda"


class StepCheckpoint:
    """The checkpoint of one round of training.

    Args:
        folder: the site's private folder; None writes no checkpoint.
        model: at the start of the round.
        optimizer: new, over the model's parameters.
        about: everything else that determines the training; a checkpoint of another training is ignored.
        start: the model's trained arrays at the start of the round, which do not change during it: they are hashed only
            if there is or will be a checkpoint. None hashes the model at once.

    Attributes:
        step: number of completed optimizer steps.
        loss: sum of their losses, float64, on the device of the model.

    """

    def __init__(
        self,
        folder: Path | None,
        model: nn.Module,
        optimizer: Optimizer,
        about: object,
        start: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._path = folder / "progress.safetensors" if folder else None
        self._model, self._optimizer = model, optimizer
        self._start, self._about = start, about
        if folder and start is None:
            self._start = _get_mutable_arrays(model)
            _ = self._key  # before the first step changes them
        self._written = time.monotonic()
        self.step, self.loss = 0, torch.zeros((), dtype=torch.float64, device=self._device)

    @cached_property
    def _key(self) -> str:
        """Digest of what determines the training."""
        digest = TranscriptDigest(b"fedhealth step checkpoint 3")
        digest.add(repr(self._about).encode(), digest_arrays(dict(self._start or {})))
        return digest.hexdigest()

    def restore(self) -> None:
        """Restore the checkpoint that an earlier process wrote for the same training, if there is one."""
        if self._path is None or not self._path.is_file():
            return
        try:
            with safe_open(self._path, framework="pt") as file:
                about = json.loads((file.metadata() or {}).get("about", "{}"))
                if about.get("key") != self._key:
                    return
                self._load({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - not a mapping
        except (OSError, SafetensorError, ValueError, KeyError) as fault:
            log.warning("cannot read the checkpoint of this round (%s): training starts again at its first step", fault)
            return
        self.step = int(about["step"])
        self.loss.fill_(float(about["loss"]))
        log.info("interrupted round resumes after step %d", self.step)

    def record_step(self, step: int, loss: Tensor | float) -> None:
        """Record that `step` steps are complete, the last with this loss; write every `EVERY_SECONDS`."""
        self.step = step
        self.loss += loss
        if self._path is None or time.monotonic() - self._written < EVERY_SECONDS:
            return
        about = json.dumps({"key": self._key, "step": step, "loss": float(self.loss)})
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(self._path, save(self._tensors(), {"about": about}))
        self._written = time.monotonic()

    def delete(self) -> None:
        """Delete the checkpoint at the end of the round."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _tensors(self) -> dict[str, Tensor]:
        found = {_MODEL + name: value for name, value in _get_mutable_tensors(self._model).items()}
        for number, state in self._optimizer.state_dict()["state"].items():
            found |= {f"{_OPTIMIZER}{number}.{name}": v for name, v in state.items() if isinstance(v, Tensor)}
        found[_GENERATOR] = torch.get_rng_state()
        if self._device.type == "cuda":
            found[_CUDA] = torch.cuda.get_rng_state(self._device)
        return {name: value.detach().cpu().contiguous().clone() for name, value in found.items()}  # none shares memory

    def _load(self, tensors: dict[str, Tensor]) -> None:
        """Copy the tensors back into model, optimizer and generators."""
        with torch.no_grad():
            for name, parameter in _get_trained_parameters(self._model).items():
                parameter.copy_(tensors.pop(_MODEL + name))
        for name in [name for name in tensors if name.startswith(_MODEL)]:
            _set_buffer(self._model, name.removeprefix(_MODEL), tensors.pop(name).to(self._device))
        state: dict[int, dict[str, Any]] = {}
        for name, value in tensors.items():
            if name.startswith(_OPTIMIZER):
                number, _, key = name.removeprefix(_OPTIMIZER).partition(".")
                state.setdefault(int(number), {})[key] = value
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": state})
        torch.set_rng_state(tensors[_GENERATOR])
        if _CUDA in tensors and self._device.type == "cuda":
            torch.cuda.set_rng_state(tensors[_CUDA], self._device)

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device


def _get_mutable_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that training changes: trained weights and running statistics."""
    return _get_trained_parameters(model) | dict(model.named_buffers())


def _get_trained_parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _set_buffer(model: nn.Module, name: str, value: Tensor) -> None:
    """Set a buffer, which may be none yet, or of another shape: a part of a user's own may make it when it trains."""
    path, _, own = name.rpartition(".")
    module = model.get_submodule(path)
    buffer = module._buffers.get(own)
    if buffer is None or buffer.shape != value.shape or buffer.is_inference():
        module._buffers[own] = value
    else:
        buffer.copy_(value)  # in place: other modules may hold it, too


def _get_mutable_arrays(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().cpu().numpy() for name, value in _get_mutable_tensors(model).items()}
