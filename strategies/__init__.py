"""The lead's side: strategies, aggregations, server optimizers, and the interfaces for own ones.

`FedAvg` runs hospitals, `StockFedAvg` stock Flower clients, `SecureFedAvg` Flower clients with secure aggregation.
"""

from typing import TYPE_CHECKING

from fedhealth.utils.lazy_exports import make_lazy_getter

if TYPE_CHECKING:  # Flower and torch load when a name is used
    from fedhealth.models.modality_keys import get_tower
    from strategies.aggregation.base import Aggregate, Aggregation, RoundAttempt
    from strategies.aggregation.checks import add_statistics, check_norm, check_statistics, check_update, read_reply
    from strategies.aggregation.mean import WeightedMean
    from strategies.aggregation.robust import RobustAggregation, coordinate_median, krum, trimmed_mean
    from strategies.aggregation.secure import SecureSum
    from strategies.aggregation.stateless import StatelessAggregation
    from strategies.fedavg import FedAvg
    from strategies.participants import Participation
    from strategies.round_request import RunIdentity
    from strategies.secure_fedavg import SecureFedAvg
    from strategies.server_optimizers.adaptive import Adagrad, Adam, Yogi
    from strategies.server_optimizers.averaging import Averaging
    from strategies.server_optimizers.base import ServerOptimizer, add_change, is_running_statistic
    from strategies.server_optimizers.momentum import Momentum
    from strategies.server_optimizers.training_optimizer import TrainingOptimizer
    from strategies.server_state.base import ServerMethodState
    from strategies.stock_fedavg import StockFedAvg

__all__ = [
    "Adagrad",
    "Adam",
    "Aggregate",
    "Aggregation",
    "Averaging",
    "FedAvg",
    "Momentum",
    "Participation",
    "RobustAggregation",
    "RoundAttempt",
    "RunIdentity",
    "SecureFedAvg",
    "SecureSum",
    "ServerMethodState",
    "ServerOptimizer",
    "StatelessAggregation",
    "StockFedAvg",
    "TrainingOptimizer",
    "WeightedMean",
    "Yogi",
    "add_change",
    "add_statistics",
    "check_norm",
    "check_statistics",
    "check_update",
    "coordinate_median",
    "get_tower",
    "is_running_statistic",
    "krum",
    "read_reply",
    "trimmed_mean",
]

_ROBUST = "strategies.aggregation.robust"
_CHECKS = ("add_statistics", "check_norm", "check_statistics", "check_update", "read_reply")
_ADAPTIVE = "strategies.server_optimizers.adaptive"

__getattr__ = make_lazy_getter(
    __name__,
    {
        "get_tower": "fedhealth.models.modality_keys",
        "Aggregate": "strategies.aggregation.base",
        "Aggregation": "strategies.aggregation.base",
        "RoundAttempt": "strategies.aggregation.base",
        "StatelessAggregation": "strategies.aggregation.stateless",
        "WeightedMean": "strategies.aggregation.mean",
        "SecureSum": "strategies.aggregation.secure",
        "FedAvg": "strategies.fedavg",
        "StockFedAvg": "strategies.stock_fedavg",
        "SecureFedAvg": "strategies.secure_fedavg",
        "Participation": "strategies.participants",
        "RunIdentity": "strategies.round_request",
        "ServerOptimizer": "strategies.server_optimizers.base",
        "add_change": "strategies.server_optimizers.base",
        "is_running_statistic": "strategies.server_optimizers.base",
        "Averaging": "strategies.server_optimizers.averaging",
        "Momentum": "strategies.server_optimizers.momentum",
        "TrainingOptimizer": "strategies.server_optimizers.training_optimizer",
        "ServerMethodState": "strategies.server_state.base",
        **dict.fromkeys(("RobustAggregation", "coordinate_median", "krum", "trimmed_mean"), _ROBUST),
        **dict.fromkeys(("Adagrad", "Adam", "Yogi"), _ADAPTIVE),
        **dict.fromkeys(
            ("add_statistics", "check_norm", "check_statistics", "check_update", "read_reply"),
            "strategies.aggregation.checks",
        ),
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
