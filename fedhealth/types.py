"""Names and aliases that every package uses."""

from __future__ import annotations

import re

import numpy as np

State = dict[str, np.ndarray]


# Lower case only: two ids can then not differ by case, nor by a look-alike letter.
SITE_ID = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}", re.ASCII)
