"""Measure in a process of its own, so that nothing measured before changes the result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any


def call_in_process(function: str, *arguments: Any) -> Any:
    """Return what a function of a benchmark, `module.name`, returns in a process of its own.

    Raises:
        RuntimeError: it failed; with the last line of what it wrote.

    """
    module, name = function.rsplit(".", 1)
    code = f"import json; from {module} import {name} as f; print(json.dumps(f(*{arguments!r})))"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{function}: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])
