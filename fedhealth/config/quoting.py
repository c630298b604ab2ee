"""Quote a value for a Hydra override."""

from __future__ import annotations

import re


def quote_value(value: object) -> str:
    """Return `value` quoted as a Hydra override value; any characters are allowed."""
    literal = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", str(value))  # no interpolation
    # In Hydra's quotes a backslash is special only before a quote.
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + found[2].replace("'", r"\'"), literal)
    return f"'{escaped}'"
