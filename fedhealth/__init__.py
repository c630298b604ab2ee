"""fedhealth: cross-silo federated learning for hospitals, on Flower."""

import os

__version__ = "0.1.0"

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
