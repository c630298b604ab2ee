"""The lead's side: server application, round loop, aggregation, server optimizers."""

from strategies.fedavg import FedAvg

__all__ = ["FedAvg"]
