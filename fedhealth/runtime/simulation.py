"""runtime=simulation: Flower's simulation engine on Ray, for many GPUs or a Ray cluster."""

from __future__ import annotations

from typing import Any

from hydra.utils import get_object

from fedhealth.flower.simulation import simulate
from fedhealth.protocol.job import Job, compose_job_config
from fedhealth.runtime.local_identities import temporary_site_identities
from fedhealth.utils.extras import require_module


class SimulationRuntime:
    """One virtual SuperNode per site.

    Args:
        server_app: import path of the function that creates the lead's application for a job.
        client_app: the same for the hospital's.
        num_cpus: CPU cores of one site's task.
        num_gpus: share of a GPU of one site's task.

    """

    data_are_local = True  # every site's data can be reached from this machine

    def __init__(self, server_app: str, client_app: str, num_cpus: int = 1, num_gpus: float = 0.0) -> None:
        self.server_app = server_app
        self.client_app = client_app
        self.resources: dict[str, Any] = {"num_cpus": num_cpus, "num_gpus": num_gpus}

    def launch(self, job: Job) -> None:
        """Run the job to its end.

        Raises:
            ConfigError: Ray is not installed.

        """
        require_module("ray")
        with temporary_site_identities(job):
            simulate(
                get_object(self.server_app)(job),
                get_object(self.client_app)(job),
                len(compose_job_config(job).data.sites),
                self.resources,
            )
