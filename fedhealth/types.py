"""Types and patterns used by all packages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import numpy as np

State = dict[str, np.ndarray]


# Lower case only, so that two ids cannot differ by case or by a look-alike letter.
SITE_ID = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}", re.ASCII)


class _ExpandUser:
    """Make pydantic read a path from a text that is not empty, `~` standing for the user's home folder."""

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> Any:
        from pydantic_core import core_schema  # most processes load no settings file

        return core_schema.no_info_plain_validator_function(
            _expand_user, json_schema_input_schema=core_schema.str_schema(min_length=1)
        )


def _expand_user(value: object) -> Path:
    if not isinstance(value, str) or not value:
        raise ValueError("expected a path")
    try:
        return Path(value).expanduser()
    except RuntimeError as fault:  # `~name` of a user that does not exist
        raise ValueError("expected a path; there is no such home folder") from fault


UserPath = Annotated[Path, _ExpandUser()]
"""A path in a file that a person writes."""
