"""What a lock file installs: licences, licence texts and dependencies, read from the build's own environment."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fedhealth.errors import NotReadyError
from release.lock_file import read_lock

_LONGEST_NAME = 80  # characters; some packages have the whole text in the field
_TEXT_NAME = re.compile(r"(licen[cs]e|copying|notice)", re.IGNORECASE)


@dataclass(frozen=True)
class Component:
    """One installed package.

    Attributes:
        name: canonical.
        version: as locked.
        licences: SPDX expressions, or names where the package gives no expression.
        has_expression: whether `licences` is one SPDX expression.
        texts: licence texts.
        requires: names of the packages that it needs.

    """

    name: str
    version: str
    licences: tuple[str, ...]
    has_expression: bool
    texts: tuple[str, ...]
    requires: tuple[str, ...]


def list_components(lock: Path) -> list[Component]:
    """Return the packages that a lock installs on this kind of machine.

    Raises:
        NotReadyError: the environment of the build has other versions than the lock.

    """
    needed = [each for each in read_lock(lock) if each.is_needed]
    found = {each.name: _find_distribution(each.name) for each in needed}
    versions = {name: own.version if own else "missing" for name, own in found.items()}
    wrong = [
        f"{each.name} {versions[each.name]}, not {each.version}"
        for each in needed
        if versions[each.name] != each.version
    ]
    if wrong:
        raise NotReadyError(
            f"This environment is not that of {lock.name}: {'; '.join(wrong[:5])}.",
            "Build with a virtual environment that was made from requirements.lock (make release), after make lock.",
        )
    return sorted((_describe(own, set(found)) for own in found.values() if own), key=lambda each: each.name)


def _find_distribution(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _describe(own: Distribution, names: set[str]) -> Component:
    expression = own.metadata.json.get("license_expression")
    licences = (str(expression),) if expression else tuple(_list_licence_names(own)) or ("not stated",)
    requires = [Requirement(line) for line in own.requires or ()]
    wanted = {canonicalize_name(each.name) for each in requires if _is_wanted(each)}
    name = canonicalize_name(own.metadata["Name"])
    texts = tuple(_read_licence_texts(own))
    return Component(name, own.version, licences, bool(expression), texts, tuple(sorted(wanted & names - {name})))


def _is_wanted(each: Requirement) -> bool:
    return each.marker is None or each.marker.evaluate({"extra": ""})


def _list_licence_names(own: Distribution) -> Iterator[str]:
    classifiers = [
        line.rpartition(" :: ")[2] for line in own.metadata.get_all("Classifier", []) if line[:7] == "License"
    ]
    short = str(own.metadata.json.get("license", "")).strip()
    if short and len(short) <= _LONGEST_NAME and "\n" not in short:
        yield short
    else:
        yield from (name for name in sorted(classifiers) if name != "OSI Approved")


def _read_licence_texts(own: Distribution) -> Iterator[str]:
    named = sorted(file for file in own.files or () if ".dist-info" in str(file) and _TEXT_NAME.search(file.name))
    for path in (Path(str(file.locate())) for file in named):
        if path.is_file():
            yield path.read_text("utf-8", errors="replace").strip()
