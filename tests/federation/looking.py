"""What tests look for in a run that something happens to."""

import time

import numpy as np
from safetensors.numpy import load_file

PLAIN = ["secagg=off", "seed=5", "strategy.rounds=2", "training=sgd", "training.threads=1"]


def happened(run, kind):
    return any(event["event"] == kind for event in run.read_events()[0])


def rounds_of(run, site):
    """Return for each completed round whether a site was in it."""
    return [site in event["sites"] for event in run.read_events()[0] if event["event"] == "round_completed"]


def equal(run, expected, atol=0.0):
    """Tell whether a run's model is the expected one, bit for bit unless a difference is allowed."""
    found = load_file(run.path / "model.safetensors")
    close = [np.allclose(array, expected[name], rtol=0, atol=atol) for name, array in found.items()]
    return found.keys() == expected.keys() and all(close)


def wait_for(ready, seconds):
    ends = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < ends, "it takes too long"
        time.sleep(0.2)
