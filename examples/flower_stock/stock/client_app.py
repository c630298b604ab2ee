"""A stock Flower client: nothing in it is of fedhealth."""

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from stock.task import compute_accuracy, compute_loss, fit, load_data

app = ClientApp()


def read_model(message: Message) -> dict[str, np.ndarray]:
    """Return the arrays of a message."""
    return {name: array.numpy() for name, array in message.content["arrays"].items()}


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train on the hospital's rows."""
    x, y = load_data(context.node_config["partition-id"])
    model = fit(read_model(message), x, y)
    arrays = ArrayRecord({name: Array(array) for name, array in model.items()})
    metrics = MetricRecord({"num-examples": len(y), "train_loss": compute_loss(model, x, y)})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate on the hospital's rows."""
    x, y = load_data(context.node_config["partition-id"])
    metrics = MetricRecord({"num-examples": len(y), "accuracy": compute_accuracy(read_model(message), x, y)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
