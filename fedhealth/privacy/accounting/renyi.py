"""Renyi divergences of the sampled Gaussian mechanism, by Opacus, without the rest of Opacus.

`import opacus` imports its optimizers and layers with much of torch, which takes seconds. This one module of it needs
numpy and scipy alone, so it is loaded from its file, when it is first used; it is the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

_PLACE = Path("accountants", "analysis", "rdp.py")


def compute_rdp(*, q: float, noise_multiplier: float, steps: int, orders: Sequence[float]) -> Any:
    """Return the divergences of steps with sampling rate `q` at each order [O], as Opacus does."""
    return _load_module().compute_rdp(q=q, noise_multiplier=noise_multiplier, steps=steps, orders=orders)


def get_privacy_spent(*, orders: Sequence[float], rdp: Any, delta: float) -> tuple[float, float]:
    """Return the least epsilon that divergences [O] bound, and its order, as Opacus does."""
    epsilon, order = _load_module().get_privacy_spent(orders=orders, rdp=rdp, delta=delta)
    return epsilon, order


@cache
def _load_module() -> ModuleType:
    package = find_spec("opacus")  # finds the package, and does not import it
    if package is None or package.origin is None:
        raise ModuleNotFoundError("No module named 'opacus'", name="opacus")
    spec = spec_from_file_location(f"{__name__}_of_opacus", Path(package.origin).parent / _PLACE)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"opacus has no {_PLACE}", name="opacus.accountants.analysis.rdp")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
