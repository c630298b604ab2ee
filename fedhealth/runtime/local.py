"""runtime=local: lead and sites in this process, the embedded default."""

from __future__ import annotations

from flwr.app import Context, RecordDict
from hydra.utils import get_object

from fedhealth.flower.in_process_grid import LocalGrid
from fedhealth.protocol.job import Job, config_of
from fedhealth.runtime.rehearsal import rehearsal


class LocalRuntime:
    """Runs the two applications against each other.

    Args:
        server_app: import path of the function that builds the lead's application for a job.
        client_app: the same for the hospital's.

    """

    local_data = True  # every site's data are on this machine

    def __init__(self, server_app: str, client_app: str) -> None:
        self.server_app = server_app
        self.client_app = client_app

    def launch(self, job: Job) -> None:
        """Run the job to its end."""
        server, client = get_object(self.server_app)(job), get_object(self.client_app)(job)
        grid = LocalGrid(client, config_of(job).data.sites, {})
        with rehearsal(job):
            server(grid, Context(grid.run.run_id, 0, {}, RecordDict(), {}))
