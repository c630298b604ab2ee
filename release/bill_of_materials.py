"""The bill of materials of one side: CycloneDX 1.6, JSON (ECMA-424)."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from release.components import Component

_PRODUCT = "fedhealth"


def build_bill(
    side: str, version: str, wheel_sha256: str, epoch: int, components: Sequence[Component]
) -> dict[str, Any]:
    """Return the bill of materials of one side.

    Args:
        side: `site`, `site-sources` or `lead`.
        version: of the release.
        wheel_sha256: of the release's wheel, hexadecimal.
        epoch: time of the commit, seconds since 1970.
        components: what the side's lock installs.

    """
    own = f"pkg:pypi/{_PRODUCT}@{version}"
    refs = {each.name: f"pkg:pypi/{each.name}@{each.version}" for each in components}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, f'{side} {wheel_sha256}')}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, UTC).isoformat(),
            "component": {
                "type": "application",
                "bom-ref": own,
                "name": _PRODUCT,
                "version": version,
                "purl": own,
                "hashes": [{"alg": "SHA-256", "content": wheel_sha256}],
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            },
            "properties": [{"name": "fedhealth:side", "value": side}],
        },
        "components": [_describe_component(each, refs[each.name]) for each in components],
        "dependencies": [
            {"ref": own, "dependsOn": sorted(refs.values())},
            *({"ref": refs[each.name], "dependsOn": [refs[name] for name in each.requires]} for each in components),
        ],
    }


def _describe_component(each: Component, ref: str) -> dict[str, Any]:
    if each.has_expression:
        licences: list[dict[str, Any]] = [{"expression": each.licences[0]}]
    else:
        licences = [{"license": {"name": name}} for name in each.licences]
    return {
        "type": "library",
        "bom-ref": ref,
        "name": each.name,
        "version": each.version,
        "purl": ref,
        "licenses": licences,
    }
