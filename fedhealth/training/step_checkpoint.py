"""How far a round's training has come, on the site's disk: a worker that is killed does not begin a long round again.

Plain training goes on bit for bit: weights, what the optimizer remembers, and the generators are kept. Private training
goes on with the same mechanism; the round was booked before its first step. Nothing here ever leaves the site.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from fedhealth.utils.atomic_io import write_atomic

log = logging.getLogger("fedhealth.site")

EVERY_SECONDS = 60.0  # of training between two writings: what a crash costs at most
_MODEL, _OPTIMIZER, _GENERATOR, _CUDA = "model.", "optimizer.", "generator", "generator.cuda"


class Progress:
    """One round's training.

    Args:
        folder: the site's private one; None keeps nothing.
        model: as the round starts.
        optimizer: over its parameters, fresh.
        about: what else the training is determined by; another beginning has other progress.

    Attributes:
        step: how many optimizer steps are done.
        loss: the sum of their losses.

    """

    def __init__(self, folder: Path | None, model: nn.Module, optimizer: Optimizer, about: object) -> None:
        self._path = folder / "progress.safetensors" if folder else None
        self._model, self._optimizer = model, optimizer
        self._key = _digest(model, about) if folder else ""
        self._written = time.monotonic()
        self.step, self.loss = 0, 0.0

    def take_up(self) -> None:
        """Go on where an earlier process stopped in the same training, if one did."""
        if self._path is None or not self._path.is_file():
            return
        try:
            with safe_open(self._path, framework="pt") as file:
                about = json.loads((file.metadata() or {}).get("about", "{}"))
                if about.get("key") != self._key:
                    return
                self._load({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - not a mapping
        except (OSError, SafetensorError, ValueError, KeyError) as fault:
            log.warning("progress of a round cannot be read (%s): it is trained from its beginning", fault)
            return
        self.step, self.loss = int(about["step"]), float(about["loss"])
        log.info("a round that was interrupted goes on after step %d", self.step)

    def done(self, step: int, loss: float) -> None:
        """Note that `step` steps are done; written down now and then."""
        self.step, self.loss = step, loss
        if self._path is None or time.monotonic() - self._written < EVERY_SECONDS:
            return
        about = json.dumps({"key": self._key, "step": step, "loss": loss})
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(self._path, save(self._tensors(), {"about": about}))
        self._written = time.monotonic()

    def end(self) -> None:
        """Forget it: the round is trained."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _tensors(self) -> dict[str, Tensor]:
        found = {_MODEL + name: value for name, value in _changing(self._model).items()}
        for number, state in self._optimizer.state_dict()["state"].items():
            kept = {name: value for name, value in state.items() if isinstance(value, Tensor)}
            found |= {f"{_OPTIMIZER}{number}.{name}": value for name, value in kept.items()}
        found[_GENERATOR] = torch.get_rng_state()
        if self._device.type == "cuda":
            found[_CUDA] = torch.cuda.get_rng_state(self._device)
        return {name: value.detach().cpu().contiguous().clone() for name, value in found.items()}  # none shares memory

    def _load(self, tensors: dict[str, Tensor]) -> None:
        """Put everything back; the same training has the same names."""
        with torch.no_grad():
            for name, value in _changing(self._model).items():
                value.copy_(tensors[_MODEL + name])
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


def _changing(model: nn.Module) -> dict[str, Tensor]:
    """Return what training changes: trained weights and running statistics."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad} | dict(model.named_buffers())


def _digest(model: nn.Module, about: object) -> str:
    digest = hashlib.sha256(repr(about).encode())
    for name, value in _changing(model).items():
        digest.update(f"|{name}|".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
