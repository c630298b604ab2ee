"""Instantiate what a configuration node names; our own errors pass through unchanged."""

from __future__ import annotations

from typing import Any

import hydra.utils
from hydra.errors import InstantiationException

from fedhealth.errors import ConfigError, FedhealthError
from fedhealth.utils.fault_text import advise_import, get_first_line
from fedhealth.utils.own_code import OwnCodeError, explain_own_code


def instantiate(node: Any, **arguments: Any) -> Any:
    """Call the `_target_` of `node` with its values and `arguments`.

    Raises:
        FedhealthError: raised by the target itself.
        ConfigError: any other failure, with its reason, and the line of the user's own code that failed.

    """
    try:
        return hydra.utils.instantiate(node, **arguments)
    except InstantiationException as fault:
        cause = fault.__cause__
        if isinstance(cause, FedhealthError):
            raise cause from None
        if isinstance(cause, ImportError) and cause.__cause__ is not None:  # Hydra's own text has no reason in its line
            cause = cause.__cause__
        if own := explain_own_code(cause or fault, is_part=cause is not None):
            raise OwnCodeError(f"{node.get('_target_', node)} cannot be built: {own.problem}", own.advice) from fault
        reason = get_first_line(cause or fault)
        raise ConfigError(
            f"{node.get('_target_', node)} cannot be built: {reason}",
            advise_import(fault, "Check its values in the configuration."),
        ) from fault
