"""Implementation of `fedhealth site compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console

from fedhealth.cli.prompts import print_lines
from fedhealth.cli.site_calibrate import find_own_model
from fedhealth.config.compose import compose_config
from fedhealth.config.schema import Config
from fedhealth.errors import ConfigError
from fedhealth.site.audit_log import AuditLog
from fedhealth.site.home import SiteHome
from fedhealth.site.job_approval import COUNT_FAULTS, make_site_overrides
from fedhealth.site.policy import Policy, load_policy
from fedhealth.site.run_history import SiteRunRecord, find_site_run
from fedhealth.utils.private_files import write_private_file


def run_compare_site(model: Path, as_json: bool, folder: Path | None) -> None:
    """Train this hospital's baseline, compare it with the shared model on its own test patients, and say so here.

    Raises:
        ConfigError: this hospital has not evaluated the model, or no longer has its data.
        FedhealthError: the data, the model or the privacy of the run do not allow it.

    """
    from fedhealth.experiment.own_comparison import compare_own_site, load_shared_arrays
    from fedhealth.models.weights import set_weights_folder
    from fedhealth.report.site_gains import advise_site, describe_sites, list_losers
    from fedhealth.runs.hospital_calibration import MODEL
    from fedhealth.runs.load_record import parse_site_gain
    from fedhealth.runs.run_dir import PERSONAL_FILE
    from fedhealth.site.run_text import OWN_GAIN_FILE

    home = SiteHome.find(folder)
    path, own, _ = find_own_model(model, home)
    policy, record = load_policy(home), find_site_run(home, path.parent.name)
    set_weights_folder(policy.resources.weights)
    config = _compose_run(record, policy)
    shared = load_shared_arrays(config, model / "model.safetensors", own.about[MODEL])
    with Console(stderr=True).status("Training this hospital's own baseline"):
        row = compare_own_site(config, policy.name, shared, path.with_name(PERSONAL_FILE))
    write_private_file(path.with_name(OWN_GAIN_FILE), json.dumps(row, indent=1).encode())
    AuditLog(home.audit).write("compared", model=own.about[MODEL], dataset=config.data.name)
    if as_json:
        print(json.dumps(row))
        return
    gain = parse_site_gain(row)
    told = (describe_sites((gain,)), *map(advise_site, list_losers((gain,))))
    print_lines(Console(), *(each.replace("\N{NO-BREAK SPACE}", " ") for each in told))
    print_lines(Console(), f"Exact, and for this hospital only: {path.with_name(OWN_GAIN_FILE)}")


def _compose_run(record: SiteRunRecord, policy: Policy) -> Config:
    """Return the configuration of a run as this hospital worked on it, with its policy as it is now."""
    overrides = tuple(map(str, record.order.get("overrides", ())))
    if not overrides:
        raise ConfigError(f"The order of run {record.run} is not in the audit log.", "Compare a run that was accepted.")
    name = str(compose_config([*overrides, "data.root=elsewhere"], policy.conf).data.name)
    source = policy.data.get(name)
    if source is None:
        raise ConfigError(f"site.yaml offers no data called {name!r} any more.", "Add it to `data` again.")
    own = [*make_site_overrides(policy, source, overrides), COUNT_FAULTS]
    config: Any = OmegaConf.to_object(compose_config([*overrides, *own], policy.conf))
    assert isinstance(config, Config)  # noqa: S101 - the schema's root
    return config
