"""Temporary site identities for runs on one machine, which real hospitals create themselves."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
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
    members = {site: make_identity(folder) for site, folder in folders.items()}
    for folder in (*folders.values(), run.path):
        save_roster(folder, members)
    try:
        yield
    finally:
        for site, folder in folders.items():
            shutil.rmtree(get_secrets_folder(job.run, site, folder), ignore_errors=True)
