"""Version, changelog and citation say the same."""

import re
from pathlib import Path

import yaml

from fedhealth.version import __version__

ROOT = Path(__file__).resolve().parents[1]


def test_the_citation_has_this_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__


def test_the_latest_dated_section_of_the_changelog_is_this_version():
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == "Unreleased"
    assert re.fullmatch(rf"{re.escape(__version__)} - \d{{4}}-\d\d-\d\d", headings[1])


def test_every_page_that_a_file_of_the_root_names_exists():
    for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md"):
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]+)(#[^)]*)?\)", (ROOT / name).read_text()):
            assert (ROOT / target).exists(), f"{name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", (ROOT / target).read_text(), re.M)
                slugs = [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings]
                assert anchor[1:] in slugs, f"{name}: {target}{anchor}"
