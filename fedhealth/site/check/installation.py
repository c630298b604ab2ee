"""Check the installed package: the Python version, every file of the wheel, and the versions of dependencies.

Two of our packages have generic names (`strategies`, `clients`): another package may have overwritten them.
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

from fedhealth.site.check.base import CheckResult, report_failure, report_pass, report_warning

NAME, PACKAGES = "fedhealth", ("fedhealth", "strategies", "clients")
_MAX_SHOWN = 5
_REINSTALL = "Reinstall fedhealth, into a virtual environment of its own."


def check_installation() -> Iterator[CheckResult]:
    """Yield the checks of the installed package."""
    try:
        own = distribution(NAME)
    except PackageNotFoundError:
        yield report_failure("package", "fedhealth is on the import path but not installed", _REINSTALL)
        return
    folders = _find_package_folders()
    yield check_python(own)
    yield from check_files(own, folders[NAME])
    yield from check_names(packages_distributions(), folders)
    yield from check_pins(own)


def check_python(own: Distribution) -> CheckResult:
    """Check the Python version against the one that the package requires."""
    wanted, found = str(own.metadata["Requires-Python"] or ""), platform.python_version()
    if SpecifierSet(wanted).contains(found, prereleases=True):
        return report_pass("Python", found)
    return report_failure("Python", f"{found}, but {wanted} is required", "Install fedhealth with that Python version.")


def check_files(own: Distribution, imported: Path | None) -> Iterator[CheckResult]:
    """Compare every file of our packages with the wheel's RECORD.

    Args:
        own: the installed package.
        imported: the folder that `import fedhealth` uses.

    """
    direct = json.loads(own.read_text("direct_url.json") or "{}")
    if direct.get("dir_info", {}).get("editable"):
        finding = f"{own.version}, an editable install: whoever can write to its folder can change the code"
        yield report_warning("package", finding, "At a hospital, install the wheel instead.")
        return
    root, recorded = Path(str(own.locate_file(""))), _read_record(own)
    if imported is None or imported.resolve() != (root / NAME).resolve():
        yield report_failure(
            "package",
            f"Python imports {imported} instead of {root / NAME}",
            "Unset PYTHONPATH, or start from another folder.",
        )
        return
    found = {
        _get_relative_name(path, root)
        for package in PACKAGES
        for path in (root / package).rglob("*")
        if _is_package_file(path)
    }
    faults = [f"{path}: missing" for path in recorded if not (root / path).is_file()]
    kept = {path: digest for path, digest in recorded.items() if (root / path).is_file()}
    faults += [f"{path}: changed" for path, digest in kept.items() if not _is_same(root / path, digest)]
    faults += [f"{path}: not part of the wheel" for path in sorted(found - set(recorded))]
    if faults:
        more = f" and {len(faults) - _MAX_SHOWN} more" if len(faults) > _MAX_SHOWN else ""
        yield report_failure("package", f"{'; '.join(faults[:_MAX_SHOWN])}{more}", _REINSTALL)
    else:
        yield report_pass("package", f"{own.version}, {len(recorded)} files identical to the wheel")


def check_names(providers: Mapping[str, list[str]], folders: Mapping[str, Path | None]) -> Iterator[CheckResult]:
    """Check that no other distribution provides our packages.

    Args:
        providers: names of distributions by top-level package.
        folders: where Python finds each of our packages.

    """
    faults, ours = [], folders["fedhealth"]
    for package in PACKAGES:
        others = sorted({name for name in providers.get(package, []) if canonicalize_name(name) != NAME})
        faults += [f"{package} is also provided by {name}" for name in others]
        folder = folders[package]
        if folder is None or ours is None or folder.parent != ours.parent:
            faults.append(f"{package} is found in {folder}, not beside {ours}")
    if faults:
        yield report_failure("package names", "; ".join(faults), f"Uninstall the other package. {_REINSTALL}")
    else:
        yield report_pass("package names", ", ".join(PACKAGES))


def check_pins(own: Distribution) -> Iterator[CheckResult]:
    """Compare the installed dependencies with the versions that the package requires."""
    wanted = [Requirement(line) for line in own.requires or ()]
    wanted = [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    faults = [fault for each in wanted if (fault := _describe_pin_mismatch(each))]
    if faults:
        yield report_failure("dependencies", "; ".join(faults), "Install the versions listed in requirements.lock.")
    else:
        yield report_pass(
            "dependencies", f"{len(wanted)} as required; flwr {version('flwr')}, torch {version('torch')}"
        )


def _describe_pin_mismatch(wanted: Requirement) -> str:
    try:
        found = version(wanted.name)
    except PackageNotFoundError:
        return f"{wanted.name} is not installed"
    fits = wanted.specifier.contains(found, prereleases=True)
    return "" if fits else f"{wanted.name} {found}, but {wanted.specifier} is required"


def _read_record(own: Distribution) -> dict[str, str]:
    """Return {path: SHA-256 as in RECORD} of our packages' files."""
    files = [file for file in own.files or () if file.parts[0] in PACKAGES and "__pycache__" not in file.parts]
    return {file.as_posix(): file.hash.value for file in files if file.hash and file.hash.mode == "sha256"}


def _is_package_file(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts


def _get_relative_name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _is_same(path: Path, expected: str) -> bool:
    digest = hashlib.sha256(path.read_bytes()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == expected


def _find_package_folders() -> dict[str, Path | None]:
    found = {package: find_spec(package) for package in PACKAGES}
    return {name: Path(spec.origin).parent if spec and spec.origin else None for name, spec in found.items()}
