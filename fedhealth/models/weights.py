"""Where pretrained weights are: at the place that is named, or by plain name in one folder of this machine.

A job names weights by file name only. Which file that is, each hospital decides: `resources.weights` in its site.yaml.
"""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "FEDHEALTH_WEIGHTS"


def stored(name: str) -> Path:
    """Return the path of a file or folder of weights; it need not exist."""
    path, folder = Path(name).expanduser(), os.environ.get(VARIABLE)
    return Path(folder) / name if folder and path.name == name else path


def use_folder(folder: Path | None) -> None:
    """Take weights that are named without a folder from this one; None: from the working directory."""
    os.environ[VARIABLE] = str(folder or "")
