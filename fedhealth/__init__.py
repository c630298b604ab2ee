"""fedhealth: cross-silo federated learning for hospitals, on Flower.

`fedhealth.run`, `fedhealth.load_run` and `fedhealth.compare` are the command line's counterparts in Python.
"""

import os
from typing import TYPE_CHECKING

from fedhealth.utils.lazy_exports import make_lazy_getter
from fedhealth.version import __version__

if TYPE_CHECKING:  # the API loads torch; the command line starts without it
    from fedhealth.api.compare import Comparison, compare
    from fedhealth.api.launch import run
    from fedhealth.api.run import Run, load_run
    from fedhealth.errors import FedhealthError

__all__ = ["Comparison", "FedhealthError", "Run", "__version__", "compare", "load_run", "run"]

_MODULES = {
    "Comparison": "fedhealth.api.compare",
    "FedhealthError": "fedhealth.errors",
    "Run": "fedhealth.api.run",
    "compare": "fedhealth.api.compare",
    "load_run": "fedhealth.api.run",
    "run": "fedhealth.api.launch",
}

# Nothing leaves a hospital that its policy does not name, and that includes the usage statistics of libraries.
for _switch, _off in {
    "FLWR_TELEMETRY_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "DO_NOT_TRACK": "1",
}.items():
    os.environ.setdefault(_switch, _off)

# OpenMP threads that spin while they wait make training 15 times slower on a machine that is also busy elsewhere.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__getattr__ = make_lazy_getter(__name__, _MODULES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
