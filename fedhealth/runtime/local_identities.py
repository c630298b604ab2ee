"""Temporary site identities for runs on one machine, which real hospitals create themselves."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fedhealth.consortium.identity import get_secrets_folder, make_identity, save_roster
from fedhealth.protocol.job import Job, compose_job_config
from fedhealth.runs.run_dir import RunDir


@contextmanager
def temporary_site_identities(job: Job) -> Iterator[None]:
    """Create an identity for every site of `job` and the list of members; delete their secrets at the end."""
    run = RunDir(Path(job.folder))
    folders = {site: run.site_dir(site) for site in compose_job_config(job).data.sites}
    with temporary_identities(job.run, folders, run.path):
        yield


@contextmanager
def temporary_identities(run: str, folders: Mapping[str, Path], lead: Path) -> Iterator[None]:
    """Create an identity for every site and the list of members; delete the secrets of the run at the end.

    Args:
        run: the run's id.
        folders: of the sites, by name.
        lead: the lead's folder, for its list of members.

    """
    members = {site: make_identity(folder) for site, folder in folders.items()}
    for folder in (*folders.values(), lead):
        save_roster(folder, members)
    try:
        yield
    finally:
        for site, folder in folders.items():
            shutil.rmtree(get_secrets_folder(run, site, folder), ignore_errors=True)
