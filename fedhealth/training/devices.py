"""The device and the threads that train."""

from __future__ import annotations

import os

import torch

from fedhealth.config.schema import TrainingConfig
from fedhealth.errors import ConfigError
from fedhealth.utils.fault_text import get_first_line


def set_thread_count(training: TrainingConfig) -> None:
    """Set the number of torch threads; it affects the last bits of sums, and Ray starts its workers with one thread."""
    torch.set_num_threads(training.threads or os.cpu_count() or 1)


def select_device(name: str) -> torch.device:
    """Return the torch device for `auto`, `cpu`, `cuda` or `cuda:1`.

    Raises:
        ConfigError: this machine has no such device.

    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as fault:  # torch asserts that it was compiled with CUDA
        reason = get_first_line(fault)
        raise ConfigError(f"training.device={name} cannot be used: {reason}", "Use auto, cpu or cuda.") from fault
