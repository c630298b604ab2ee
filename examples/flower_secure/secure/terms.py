"""What the lead and all hospitals agree on; each has its own copy of this code."""

from pathlib import Path

from flwr.app import Context

from fedhealth.protocol.secure_terms import SecureTerms

SITES = ("north", "east", "south", "west")


def make_terms(context: Context) -> SecureTerms:
    """Return the terms of the run; Flower's run id is never used twice."""
    return SecureTerms(f"run-{context.run_id}", SITES, train_metrics=("train_loss",), evaluate_metrics=("accuracy",))


def find_folder(context: Context) -> Path:
    """Return the folder below which this example keeps everybody's keys and state."""
    return Path(str(context.run_config["folder"])).absolute()
