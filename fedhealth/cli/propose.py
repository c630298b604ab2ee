"""Implementation of `fedhealth site ingest --propose`, of its `--add`, and of `fedhealth data propose`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from fedhealth.cli.prompts import print_lines
from fedhealth.errors import ConfigError
from fedhealth.utils.atomic_io import create_once
from fedhealth.utils.user_path import expand_user


def propose_ingest(folder: Path, tables: Sequence[Path], data: str | None, home: Path | None) -> None:
    """Write proposed settings to ingest.yaml.

    Raises:
        ConfigError: there is such a file already, or the data have no name.
        DataError: the images or tables cannot be read.

    """
    from fedhealth.cli.ingest import compose_data_config
    from fedhealth.ingest.proposal_text import SETTINGS_FILE
    from fedhealth.ingest.propose import propose_settings
    from fedhealth.ingest.settings import IngestSettings
    from fedhealth.site.home import SiteHome
    from fedhealth.site.policy import load_policy
    from fedhealth.utils.json_schema import write_schema

    if data is None:
        raise ConfigError("The data have no name.", "Ask the lead for it, and add --data NAME.")
    path = Path(SETTINGS_FILE)
    _refuse_existing(path)
    found = SiteHome.find(home)
    policy = load_policy(found) if found.policy.exists() else None
    site, conf = (policy.name, policy.conf) if policy else (None, None)
    described = compose_data_config(IngestSettings(site or "site", data, {}, conf=conf), folder, ())
    text = propose_settings(site, conf, expand_user(folder), [expand_user(each) for each in tables], described)
    create_once(path, text.encode, 0o600)
    write_schema(path, IngestSettings)
    left = text.count("???") - 1  # the heading names them too
    decide = f"{left} place(s) are for you to decide (???)." if left else "Nothing is undecided."
    print_lines(Console(), f"Proposed: {SETTINGS_FILE}. {decide} Check every line, then run:")
    print_lines(Console(), f"fedhealth site ingest {SETTINGS_FILE}")


def propose_data(manifest: Path, out: Path) -> None:
    """Write a proposed description of a manifest.

    Raises:
        ConfigError: the file exists.
        DataError: the manifest cannot be read.

    """
    from fedhealth.data.propose_description import propose_description
    from fedhealth.data.read_table import read_table

    _refuse_existing(out)
    text = propose_description(read_table(expand_user(manifest)), out.stem)
    create_once(out, text.encode, 0o600)
    print_lines(Console(), f"Proposed: {out}. Check every line and replace each ???, before anybody else gets it.")


def add_cohort_to_site(file: Path, folder: Path, home: Path | None) -> None:
    """Add a cohort to site.yaml under its data name.

    Raises:
        ConfigError: site.yaml is missing or invalid, or has other data of this name.

    """
    from fedhealth.ingest.settings import load_ingest_settings
    from fedhealth.site.add_cohort import add_cohort
    from fedhealth.site.home import SiteHome

    found = SiteHome.find(home)
    name = load_ingest_settings(file).data
    is_new = add_cohort(found, name, expand_user(folder).absolute())
    print_lines(Console(), f"{found.policy}: {name} {'is added' if is_new else 'was there already'}.")


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise ConfigError(f"{path} exists already.", "Move it away: a proposal overwrites nothing.")
