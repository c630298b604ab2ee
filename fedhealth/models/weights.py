"""Find pretrained weights: by path, or by file name in one folder of this machine.

A job names weights by file name only; each hospital sets the folder with `resources.weights` in its site.yaml.
"""

from __future__ import annotations

import os
from pathlib import Path

from fedhealth.utils.user_path import expand_user

WEIGHTS_ENV = "FEDHEALTH_WEIGHTS"


def find_weights(name: str) -> Path:
    """Return the path of a file or folder of weights; it may not exist."""
    path, folder = expand_user(name), os.environ.get(WEIGHTS_ENV)
    return Path(folder) / name if folder and path.name == name else path


def set_weights_folder(folder: Path | None) -> None:
    """Set the folder of weights that are named without a folder; None selects the working directory."""
    os.environ[WEIGHTS_ENV] = str(folder or "")
