"""What each replaceable part of a configuration must have: a part that lacks something is named before a run starts.

The names are those of the protocols, which this room does not know (tests/fedhealth/config/test_part_contracts.py
compares them). Methods are looked for on the class that `_target_` names, before anything is built; other attributes
may be set by its constructor, so they are looked for on what was built. Attributes that have a default are in
`fedhealth.config.capabilities`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedhealth.config.capabilities import load_target
from fedhealth.config.instantiate import instantiate
from fedhealth.errors import ConfigError


@dataclass(frozen=True)
class PartContract:
    """What a part must have.

    Attributes:
        where: the protocol's module, and the guide where there is one.
        methods: that the run calls.
        attributes: that the run reads.

    """

    where: str
    methods: tuple[str, ...]
    attributes: tuple[str, ...] = ()


AGGREGATION = PartContract(
    "strategies/aggregation/base.py, docs/add-an-aggregation.md",
    (
        *("start", "admit", "begin_history", "advance_history", "look_back", "load_opened", "find_repetition"),
        *("choose_sites", "give_up", "resume", "open", "complete_request", "add", "close"),
    ),
    ("required_sites", "last_exchange"),
)
SERVER_OPTIMIZER = PartContract(
    "strategies/server_optimizers/base.py, docs/add-a-server-optimizer.md", ("step",), ("state",)
)
SERVER_STATE = PartContract("strategies/server_state/base.py", ("initialize", "step"))
PERSONALIZATION = PartContract(
    "clients/personalization/base.py, docs/add-a-method.md",
    ("freeze", "select_shared", "get_extra_shapes", "train", "find_decline_reasons", "get_personal_arrays"),
    ("personal_model_is_dp",),
)
TRAINER = PartContract(
    "fedhealth/training/trainer.py",
    (
        *("check_failures", "check_can_join", "count_round_steps", "compute_least_noise", "plan_task", "plan_run"),
        *("count_units", "count_weighted_rows", "compute_aggregation_weights", "fit", "select_scored_rows"),
        *("release_statistics", "protect_update", "record_release", "is_recorded_release"),
    ),
    ("delta", "shares_noise", "dataset"),
)
TRANSPORT = PartContract(
    "clients/transport/base.py",
    (
        *("announce", "count_noise_shares", "get_last_exchange", "accept_attempt", "identify_reply"),
        *("handle_message", "get_reply_schema"),
    ),
)
RUNTIME = PartContract("fedhealth/runtime/local.py", ("launch",))
TRACKER = PartContract("fedhealth/experiment/tracking.py", ("track",))
FUSION = PartContract("fedhealth/models/fusion.py", ("forward",))
ENCODER = PartContract("fedhealth/models/encoders/base.py, docs/add-an-encoder.md", ("forward",), ("width",))
TEXT_ENCODER = PartContract(ENCODER.where, (*ENCODER.methods, "tokenize"), (*ENCODER.attributes, "pad"))
IMAGE_SOURCE = PartContract("fedhealth/data/image_source.py", ("load_manifest", "fingerprint", "write_images"))
TABLE_SOURCE = PartContract(
    "fedhealth/ingest/table_source.py, docs/add-a-data-source.md", ("describe_request", "read_table"), ("name",)
)
INGEST_SOURCE = PartContract(
    "fedhealth/ingest/source.py, docs/add-a-data-source.md", ("contains_folder", "items", "open")
)

PARTS: Mapping[str, PartContract] = {
    "strategy.aggregation": AGGREGATION,
    "secagg.lead": AGGREGATION,
    "strategy.server_optimizer": SERVER_OPTIMIZER,
    "strategy.server_state": SERVER_STATE,
    "personalization": PERSONALIZATION,
    "privacy": TRAINER,
    "secagg.site": TRANSPORT,
    "runtime": RUNTIME,
    "tracking": TRACKER,
    "data.source": IMAGE_SOURCE,
    "model.image": ENCODER,
    "model.text": TEXT_ENCODER,
    "model.tabular": ENCODER,
    "model.fusion": FUSION,
}
"""By the place in the configuration."""
_BUILT_LATER = ("model.", "runtime", "tracking")  # they need more than their own values, or reach outside


def find_contract_errors(plain: Mapping[str, Any], locate: Callable[[str], str] = str) -> Iterator[str]:
    """Yield what the parts of a resolved configuration lack; nothing is built.

    Args:
        plain: the configuration.
        locate: returns the YAML file of a part from its place.

    """
    for place, contract in PARTS.items():
        node = find_node(plain, place)
        if node is None:
            continue
        target = node.get("_target_") if isinstance(node, Mapping) else None
        if not isinstance(target, str):
            yield f"{place}: {locate(place)} names no class; it needs a line `_target_: package.module.Class`."
        elif lacking := _list_lacking_methods(target, contract):
            yield _describe_lack(place, target, lacking, contract)


def check_built_parts(config: Any) -> None:
    """Build the parts of a typed configuration that need nothing but their values, and check their attributes.

    Raises:
        FedhealthError: raised by a part's constructor.
        ConfigError: a part cannot be built, or lacks an attribute.

    """
    for place, contract in PARTS.items():
        node = find_node(config, place)
        if node is not None and not place.startswith(_BUILT_LATER):
            build_part(node, place, contract)


def build_part(node: Any, place: str, contract: PartContract, **arguments: Any) -> Any:
    """Build what a node names, and check that it has what its contract needs.

    Args:
        node: with a `_target_`.
        place: of the node, for messages.
        contract: of the part.
        arguments: for the constructor, beside the node's values.

    Raises:
        FedhealthError: raised by the constructor.
        ConfigError: the part cannot be built, or lacks a method or an attribute.

    """
    _check_constructor(node, place, contract, arguments)
    built = instantiate(node, **arguments)
    names = (*contract.methods, *contract.attributes)
    if lacking := [name for name in names if not _has_attribute(built, name)]:
        raise ConfigError(_describe_lack(place, str(node["_target_"]), lacking, contract), "Add what is missing.")
    return built


def _check_constructor(node: Any, place: str, contract: PartContract, arguments: Mapping[str, Any]) -> None:
    """Refuse a class whose constructor does not take what it is passed beside the values of its node."""
    try:
        parameters = inspect.signature(load_target(str(node["_target_"]))).parameters
    except (ConfigError, TypeError, ValueError):  # `instantiate` says what is wrong
        return
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return
    if absent := [name for name in arguments if name not in parameters and not name.startswith("_")]:
        problem = f"{place}: the constructor of {node['_target_']} has no parameter {', '.join(absent)}."
        raise ConfigError(problem, f"The run passes it; see {contract.where}.")


def find_node(root: Any, place: str) -> Any:
    """Return the node at a dotted place of a configuration, plain or typed; None where there is none."""
    for key in place.split("."):
        root = root.get(key) if isinstance(root, Mapping) else getattr(root, key, None)
    return root


def _list_lacking_methods(target: str, contract: PartContract) -> list[str]:
    try:
        kind = load_target(target)
    except ConfigError:  # `validate_config` reports it
        return []
    if not isinstance(kind, type) or any("__new__" in vars(base) for base in kind.__mro__[:-1]):
        return []  # it may build something else, which is checked then
    return [name for name in contract.methods if not _defines(kind, name)]


def _has_attribute(built: object, name: str) -> bool:
    """Return whether an object has an attribute; a property of its class is not read: it may need a run that started.

    What only a protocol names, without a value, does not count.
    """
    return name in getattr(built, "__dict__", {}) or _defines(type(built), name) or _computes(built, name)


def _defines(kind: type, name: str) -> bool:
    """Return whether a class or one of its bases, protocols aside, defines a name."""
    return any(name in vars(base) for base in kind.__mro__ if not vars(base).get("_is_protocol", False))


def _computes(built: object, name: str) -> bool:
    """Return whether an object computes an attribute by its own `__getattr__`."""
    return _defines(type(built), "__getattr__") and hasattr(built, name)


def _describe_lack(place: str, target: str, lacking: list[str], contract: PartContract) -> str:
    kind = load_target(target)
    try:
        file = inspect.getsourcefile(kind)
    except TypeError:  # it is built in
        file = None
    where = f"{target} ({file})" if file else target
    return f"{place}: {where} has no {', '.join(lacking)}; see {contract.where}."
