"""Optional packages: the extras name what they install, and a site installs few packages."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fedhealth.errors import ConfigError
from fedhealth.utils import extras
from fedhealth.utils.extras import EXTRAS, build_missing_error, require_module

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
OPTIONAL = PROJECT["optional-dependencies"]
CUDA = re.compile(r"(nvidia-|cuda-|triton$)")
# What Flower requires for its server; the lock of a site leaves it out (LEAD_ONLY in the Makefile).
LEAD_ONLY = set(re.search(r"^LEAD_ONLY := (.+)$", (ROOT / "Makefile").read_text("utf-8"), re.M)[1].split())


def list_needed(requirements, seen):
    """Add to `seen` the installed packages that requirements need here, theirs included."""
    for text in requirements:
        needed = Requirement(text)
        name, chosen = canonicalize_name(needed.name), needed.extras or {""}
        if name == "fedhealth":
            list_needed([line for extra in chosen for line in OPTIONAL[extra]], seen)
        elif name not in LEAD_ONLY and not CUDA.match(name) and (name, *sorted(chosen)) not in seen:
            seen.add((name, *sorted(chosen)))
            try:
                found = requires(name) or []
            except PackageNotFoundError:
                continue
            list_needed([line for line in found if is_wanted(line, chosen)], seen)
    return seen


def is_wanted(line, chosen):
    marker = Requirement(line).marker
    return marker is None or any(Marker(str(marker)).evaluate({"extra": extra}) for extra in {"", *chosen})


def count_packages(extra):
    return len({name for name, *_ in list_needed([*PROJECT["dependencies"], f"fedhealth[{extra}]"], set())})


def test_a_site_installs_at_most_105_packages():
    assert 70 < count_packages("site") <= 105
    assert count_packages("lead") > count_packages("site")


@pytest.mark.parametrize("extra", ["site", "lead", "report", "simulation", "sweeps", "tracking", "excel", "sources"])
def test_every_part_has_its_extra(extra):
    assert OPTIONAL[extra]


@pytest.mark.parametrize("module", EXTRAS)
def test_the_extra_installs_the_module(module):
    distributions = {canonicalize_name(name) for name in packages_distributions().get(module, [module])}
    assert distributions & {name for name, *_ in list_needed([f"fedhealth[{EXTRAS[module]}]"], set())}


def test_a_missing_package_is_an_error_with_the_command():
    error = build_missing_error("matplotlib")
    assert error.exit_code == 2
    assert error.advice == "Install it: pip install 'fedhealth[report]'. With a release: install.sh --side lead."


def test_what_is_missing_is_found_before_the_work(monkeypatch):
    require_module("matplotlib")
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="matplotlib is not installed"):
        require_module("matplotlib")
