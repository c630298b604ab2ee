"""What hospitals bring with them, for runs on one machine: identities, a roster, and clean-up of their secrets."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedhealth.consortium.identity import make_identity, save_roster, secrets_folder
from fedhealth.protocol.job import Job, config_of
from fedhealth.runs.run_dir import RunDir


@contextmanager
def rehearsal(job: Job) -> Iterator[None]:
    """Give every site of `job` an identity and the list of members; remove their secrets when the run is over."""
    run = RunDir(Path(job.folder))
    folders = {site: run.site(site) for site in config_of(job).data.sites}
    members = {site: make_identity(folder) for site, folder in folders.items()}
    for folder in (*folders.values(), run.path):
        save_roster(folder, members)
    try:
        yield
    finally:
        for site, folder in folders.items():
            shutil.rmtree(secrets_folder(job.run, site, folder), ignore_errors=True)
