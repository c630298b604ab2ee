"""Check bills of materials against CycloneDX's own schema: `python release/validate_bill.py FILE...`.

It runs in a virtual environment of its own (locks/sbom.lock), because nothing else needs the validator.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator


def find_faults(path: Path) -> list[str]:
    """Return what is wrong with a bill of materials."""
    found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(path.read_text("utf-8"))
    return [] if found is None else [f"{path.name}: {found}"]


if __name__ == "__main__":
    faults = [fault for name in sys.argv[1:] for fault in find_faults(Path(name))]
    sys.exit("\n".join(faults) or None)
