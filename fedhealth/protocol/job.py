"""A job: the Hydra overrides of a run, sent by the lead and composed again by each site."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from omegaconf import OmegaConf

from fedhealth.config.compose import compute_config_digest
from fedhealth.config.compose_once import compose_once
from fedhealth.config.folder_digest import digest_config_folder
from fedhealth.config.schema import Config
from fedhealth.errors import ConfigError
from fedhealth.protocol.budget_request import BudgetRequest
from fedhealth.utils.json_model import parse_model

_LARGEST = 2**27  # bytes


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        run: our own run id, unique.
        overrides: Hydra overrides.
        digest: of the configuration they compose to, at the lead.
        folder: the lead's run directory; on a single machine, the sites' private folders are below it.
        config_dir: an additional folder of configuration files; empty for none.
        budget_request: of a sweep; such a job only reserves budget and trains nothing.

    """

    run: str
    overrides: tuple[str, ...]
    digest: str
    folder: str
    config_dir: str = ""
    budget_request: BudgetRequest | None = None

    def dumps(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def loads(text: str) -> Job:
        """Parse JSON.

        Raises:
            ConfigError: not a job.

        """
        return parse_model(text, Job, "The job", "Start runs with `fedhealth run`.", ConfigError, _LARGEST)


def compose_job_config(job: Job) -> Config:
    """Compose the job's typed configuration and check that it equals the lead's.

    Raises:
        ConfigError: an unknown override, or another configuration than the lead's.

    """
    return _compose_job_config(job, digest_config_folder(Path(job.config_dir) if job.config_dir else None))


@lru_cache(maxsize=64)
def _compose_job_config(job: Job, _folder_digest: bytes) -> Config:
    composed, _ = compose_once(job.overrides, Path(job.config_dir) if job.config_dir else None)
    own = compute_config_digest(composed)
    if own != job.digest:
        raise ConfigError(
            f"The job's configuration has digest {job.digest[:12]} at the lead and {own[:12]} here.",
            "Use the same fedhealth release and conf folder everywhere.",
        )
    config = OmegaConf.to_object(composed)
    assert isinstance(config, Config)  # noqa: S101 - the schema's root
    return config
