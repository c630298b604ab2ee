"""The installed package: the right Python, the files that the wheel brought, and dependencies it was made for.

Two of our packages have generic names (`strategies`, `clients`): another wheel may have overwritten them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from fedhealth.site.check.contract import Check, failed, passed, warned

NAME, PACKAGES = "fedhealth", ("fedhealth", "strategies", "clients")
_SHOWN = 5
_REINSTALL = "Install fedhealth again, into an environment of its own."


def check_installation() -> Iterator[Check]:
    """Yield the checks of the installed package."""
    try:
        own = distribution(NAME)
    except PackageNotFoundError:
        yield failed("package", "it lies on the path and is not installed", _REINSTALL)
        return
    folders = _folders()
    yield check_python(own)
    yield from check_files(own, folders[NAME])
    yield from check_names(packages_distributions(), folders)
    yield from check_pins(own)


def check_python(own: Distribution) -> Check:
    """Check the interpreter against what the package asks for."""
    wanted, found = str(own.metadata["Requires-Python"] or ""), platform.python_version()
    if SpecifierSet(wanted).contains(found, prereleases=True):
        return passed("Python", found)
    return failed("Python", f"{found}, wanted {wanted}", "Install fedhealth with a Python of that version.")


def check_files(own: Distribution, imported: Path | None) -> Iterator[Check]:
    """Compare every file of our packages with the wheel's RECORD.

    Args:
        own: the installed package.
        imported: the folder that `import fedhealth` reads.

    """
    direct = json.loads(own.read_text("direct_url.json") or "{}")
    if direct.get("dir_info", {}).get("editable"):
        seen = f"{own.version}, editable: read from a folder that anyone who may write it can change"
        yield warned("package", seen, "Install the wheel at a hospital.")
        return
    root, recorded = Path(str(own.locate_file(""))), _recorded(own)
    if imported is None or imported.resolve() != (root / NAME).resolve():
        yield failed("package", f"{imported} is read instead of {root / NAME}", "Unset PYTHONPATH, change the folder.")
        return
    found = {_name(path, root) for package in PACKAGES for path in (root / package).rglob("*") if _counts(path)}
    faults = [f"{path}: missing" for path in recorded if not (root / path).is_file()]
    kept = {path: digest for path, digest in recorded.items() if (root / path).is_file()}
    faults += [f"{path}: changed" for path, digest in kept.items() if not _is_same(root / path, digest)]
    faults += [f"{path}: not ours" for path in sorted(found - set(recorded))]
    if faults:
        more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        yield failed("package", f"{'; '.join(faults[:_SHOWN])}{more}", _REINSTALL)
    else:
        yield passed("package", f"{own.version}, {len(recorded)} files as in the wheel")


def check_names(providers: Mapping[str, list[str]], folders: Mapping[str, Path | None]) -> Iterator[Check]:
    """Check that our packages are ours alone.

    Args:
        providers: names of distributions by top-level package.
        folders: where Python finds each of our packages.

    """
    faults, ours = [], folders["fedhealth"]
    for package in PACKAGES:
        others = sorted({name for name in providers.get(package, []) if canonicalize_name(name) != NAME})
        faults += [f"{package} is also brought by {name}" for name in others]
        folder = folders[package]
        if folder is None or ours is None or folder.parent != ours.parent:
            faults.append(f"{package} is found in {folder}, not beside {ours}")
    if faults:
        yield failed("package names", "; ".join(faults), f"Uninstall the other package. {_REINSTALL}")
    else:
        yield passed("package names", ", ".join(PACKAGES))


def check_pins(own: Distribution) -> Iterator[Check]:
    """Compare the installed dependencies with what the package was made for."""
    wanted = [Requirement(line) for line in own.requires or ()]
    wanted = [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    faults = [fault for each in wanted if (fault := _pin_fault(each))]
    if faults:
        yield failed("dependencies", "; ".join(faults), "Install the versions of requirements.lock.")
    else:
        yield passed("dependencies", f"{len(wanted)} as wanted; flwr {version('flwr')}, torch {version('torch')}")


def _pin_fault(wanted: Requirement) -> str:
    try:
        found = version(wanted.name)
    except PackageNotFoundError:
        return f"{wanted.name} is missing"
    fits = wanted.specifier.contains(found, prereleases=True)
    return "" if fits else f"{wanted.name} {found}, wanted {wanted.specifier}"


def _recorded(own: Distribution) -> dict[str, str]:
    """Return {path: SHA-256 as in RECORD} of our packages' files."""
    files = [file for file in own.files or () if file.parts[0] in PACKAGES and "__pycache__" not in file.parts]
    return {file.as_posix(): file.hash.value for file in files if file.hash and file.hash.mode == "sha256"}


def _counts(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _is_same(path: Path, expected: str) -> bool:
    digest = hashlib.sha256(path.read_bytes()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == expected


def _folders() -> dict[str, Path | None]:
    found = {package: find_spec(package) for package in PACKAGES}
    return {name: Path(spec.origin).parent if spec and spec.origin else None for name, spec in found.items()}
