"""The stock client of the other example, and below it what makes it secure."""

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from clients import SecureSite, make_secure_client
from secure.task import compute_accuracy, compute_loss, fit, load_data, make_initial
from secure.terms import SITES, find_folder, make_terms

stock_app = ClientApp()


def read_model(message: Message) -> dict[str, np.ndarray]:
    """Return the arrays of a message."""
    return {name: array.numpy() for name, array in message.content["arrays"].items()}


@stock_app.train()
def train(message: Message, context: Context) -> Message:
    """Train on the hospital's rows."""
    x, y = load_data(context.node_config["partition-id"])
    model = fit(read_model(message), x, y)
    arrays = ArrayRecord({name: Array(array) for name, array in model.items()})
    metrics = MetricRecord({"num-examples": len(y), "train_loss": compute_loss(model, x, y)})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@stock_app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate on the hospital's rows."""
    x, y = load_data(context.node_config["partition-id"])
    metrics = MetricRecord({"num-examples": len(y), "accuracy": compute_accuracy(read_model(message), x, y)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


# --8<-- [start:secure]
def describe_site(context: Context) -> SecureSite:
    """Return which hospital this is; in a real consortium the name and folder are its own settings."""
    partition = int(context.node_config["partition-id"])
    name, terms = SITES[partition], make_terms(context)
    return SecureSite(name, find_folder(context) / name, terms, make_initial(), examples=len(load_data(partition)[1]))


app = make_secure_client(stock_app, describe_site)
# --8<-- [end:secure]
