"""Renyi divergences of the sampled Gaussian mechanism, by Opacus, without the rest of Opacus.

`import opacus` imports its optimizers and layers with much of torch, which takes seconds. This one module of it needs
numpy and scipy alone, so it is loaded from its file; it is the same code.
"""

from __future__ import annotations

from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

_PLACE = Path("accountants", "analysis", "rdp.py")


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


_rdp = _load_module()
compute_rdp, get_privacy_spent = _rdp.compute_rdp, _rdp.get_privacy_spent
