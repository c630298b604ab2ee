"""The same server with secure aggregation: it learns sums, never the update or a metric of one hospital."""

from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from fedhealth.runtime.local_identities import temporary_identities
from secure.task import make_initial
from secure.terms import SITES, find_folder, make_terms
from strategies import Momentum, SecureFedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train and print the accuracy."""
    terms, folder = make_terms(context), find_folder(context)
    initial = ArrayRecord({name: Array(array) for name, array in make_initial().items()})
    # On one machine the keys are made here. In a real consortium every hospital makes its own (`make_identity`) and
    # approves the list of public keys (`save_roster`) before the first run.
    with temporary_identities(terms.run, {site: folder / site for site in SITES}, folder / "lead"):
        strategy = SecureFedAvg(terms, folder / "lead", Momentum(momentum=0.5), event=print_fault)
        result = strategy.start(grid, initial, num_rounds=int(context.run_config["num-server-rounds"]))
    [metrics] = result.evaluate_metrics_clientapp.values()  # of the final model
    print(f"accuracy {metrics['accuracy']:.3f} over {metrics['examples']} examples")


def print_fault(kind: str, **fields: object) -> None:
    """Print what went wrong at a site."""
    if kind in ("site_failed", "handshake") and (fields.get("reason") or fields.get("reasons")):
        print(kind, fields)
