"""Seed torch's generators for a device."""

from __future__ import annotations

import torch


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the generators of the CPU and of a device as `torch.manual_seed` does.

    That one walks over all kinds of device in every call, and keeps a stack trace for each that is not in use.
    """
    if device.type not in ("cpu", "cuda"):
        torch.manual_seed(seed)
        return
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)
