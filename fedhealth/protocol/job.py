"""A job: the words that configure a run, as the lead sends them and each site composes them again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from omegaconf import OmegaConf

from fedhealth.config.compose import compose, digest
from fedhealth.config.schema import Config
from fedhealth.errors import ConfigError
from fedhealth.protocol.budget_request import Statement


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        run: our own run id, unique.
        overrides: Hydra override words.
        digest: of the configuration they compose to, at the lead.
        folder: the lead's run directory; below it, on one machine, the sites' private folders.
        config_dir: a further folder of configuration files, empty for none.
        statement: what a sweep is going to spend; such a job asks for a reservation and trains nothing.

    """

    run: str
    overrides: tuple[str, ...]
    digest: str
    folder: str
    config_dir: str = ""
    statement: Statement | None = None

    def dumps(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def loads(text: str) -> Job:
        """Read it back.

        Raises:
            ConfigError: not a job.

        """
        try:
            fields = json.loads(text)
            read = {
                "overrides": tuple(map(str, fields["overrides"])),
                "statement": Statement.parse(fields["statement"]),
            }
            return Job(**{**fields, **read})
        except (ValueError, TypeError, KeyError) as fault:
            raise ConfigError(f"This is not a fedhealth job ({fault}).", "Start runs with `fedhealth run`.") from fault


@lru_cache(maxsize=4)
def config_of(job: Job) -> Config:
    """Compose the job's configuration, typed, and check that it is the one the lead composed.

    Raises:
        ConfigError: unknown words, or another result than the lead's.

    """
    composed = compose(job.overrides, Path(job.config_dir) if job.config_dir else None)
    own = digest(composed)
    if own != job.digest:
        raise ConfigError(
            f"The job's configuration has digest {job.digest[:12]} at the lead and {own[:12]} here.",
            "Use the same fedhealth release and conf folder everywhere.",
        )
    config = OmegaConf.to_object(composed)
    assert isinstance(config, Config)  # noqa: S101 - the schema's root
    return config
