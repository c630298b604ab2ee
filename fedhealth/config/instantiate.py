"""Instantiate what a configuration node names; our own errors pass through unchanged."""

from __future__ import annotations

from typing import Any

import hydra.utils
from hydra.errors import InstantiationException

from fedhealth.errors import ConfigError, FedhealthError
from fedhealth.utils.fault_text import advise_import, get_first_line


def instantiate(node: Any, **arguments: Any) -> Any:
    """Call the `_target_` of `node` with its values and `arguments`.

    Raises:
        FedhealthError: raised by the target itself.
        ConfigError: any other failure, with its reason.

    """
    try:
        return hydra.utils.instantiate(node, **arguments)
    except InstantiationException as fault:
        cause = fault.__cause__
        if isinstance(cause, FedhealthError):
            raise cause from None
        if isinstance(cause, ImportError) and cause.__cause__ is not None:  # Hydra's own text has no reason in its line
            cause = cause.__cause__
        reason = get_first_line(cause or fault)
        raise ConfigError(
            f"{node.get('_target_', node)} cannot be built: {reason}",
            advise_import(fault, "Check its values in the configuration."),
        ) from fault
