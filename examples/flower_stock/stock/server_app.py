"""A stock Flower server: the strategy is the only line of fedhealth."""

from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from stock.task import make_initial
from strategies import Momentum, StockFedAvg, WeightedMean

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train and print the accuracy."""
    strategy = StockFedAvg(WeightedMean(max_norm=100.0), Momentum(momentum=0.5), min_train_nodes=3)
    initial = ArrayRecord({name: Array(array) for name, array in make_initial().items()})
    rounds = int(context.run_config["num-server-rounds"])
    result = strategy.start(grid, initial, num_rounds=rounds)
    print(f"accuracy {result.evaluate_metrics_clientapp[rounds]['accuracy']:.3f}")
