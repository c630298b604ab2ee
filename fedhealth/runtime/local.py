"""runtime=local, the default: lead and sites in this process."""

from __future__ import annotations

from flwr.app import Context, RecordDict
from hydra.utils import get_object

from fedhealth.flower.in_process_grid import InProcessGrid
from fedhealth.protocol.job import Job, compose_job_config
from fedhealth.runtime.local_identities import temporary_site_identities


class LocalRuntime:
    """Runs the lead's and the hospitals' application in one process.

    Args:
        server_app: import path of the function that creates the lead's application for a job.
        client_app: the same for the hospital's.

    """

    data_are_local = True  # every site's data are on this machine

    def __init__(self, server_app: str, client_app: str) -> None:
        self.server_app = server_app
        self.client_app = client_app

    def launch(self, job: Job) -> None:
        """Run the job to its end."""
        server, client = get_object(self.server_app)(job), get_object(self.client_app)(job)
        grid = InProcessGrid(client, compose_job_config(job).data.sites, {})
        with temporary_site_identities(job):
            server(grid, Context(grid.run.run_id, 0, {}, RecordDict(), {}))
