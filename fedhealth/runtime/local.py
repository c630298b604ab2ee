"""runtime=local, the default: lead and sites on this machine, in this process or with workers for the sites."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flwr.app import Context, RecordDict
from hydra.utils import get_object

from fedhealth.errors import ConfigError
from fedhealth.flower.in_process_grid import InProcessGrid, ReplySource, reply_in_turn
from fedhealth.protocol.job import Job, compose_job_config
from fedhealth.runtime.local_identities import temporary_site_identities
from fedhealth.runtime.site_workers import start_site_workers


class LocalRuntime:
    """Runs the lead's application in this process, and the hospitals' here too or in processes of their own.

    Args:
        server_app: import path of the function that creates the lead's application for a job.
        client_app: the same for the hospital's.
        workers: processes that train hospitals side by side; 1 trains them one after another, in this process. The
            results are the same.

    Raises:
        ConfigError: `workers` is no whole number, or below one.

    """

    data_are_local = True  # every site's data are on this machine

    def __init__(self, server_app: str, client_app: str, workers: int = 1) -> None:
        if type(workers) is not int or workers < 1:  # a configuration may hold anything; True is an int as well
            raise ConfigError(
                f"runtime.workers: must be a whole number of at least 1, is {workers}.", "One core needs one worker."
            )
        self.server_app = server_app
        self.client_app = client_app
        self.workers = workers

    def launch(self, job: Job) -> None:
        """Run the job to its end.

        Raises:
            FederationError: a worker process died.

        """
        with temporary_site_identities(job), self._serve_sites(job) as compute_replies:
            server = get_object(self.server_app)(job)
            grid = InProcessGrid(compute_replies, compose_job_config(job).data.sites, {})
            server(grid, Context(grid.run.run_id, 0, {}, RecordDict(), {}))

    @contextmanager
    def _serve_sites(self, job: Job) -> Iterator[ReplySource]:
        workers = min(self.workers, len(compose_job_config(job).data.sites))
        if workers == 1 or job.budget_request is not None:  # which trains nothing
            yield reply_in_turn(get_object(self.client_app)(job))
            return
        with start_site_workers(self.client_app, job, workers) as found:
            yield found.compute_replies
