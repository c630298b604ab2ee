"""One run as a command starts it: its configuration, composed once, and its place on disk."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fedhealth.config.capabilities import Capabilities, read_capabilities
from fedhealth.config.compose import (
    compose_with_choices,
    compute_config_digest,
    get_conf_dir,
    resolve_config,
)
from fedhealth.config.compose_once import compose_once, keep_composed
from fedhealth.config.method_consistency import check_method_components
from fedhealth.config.noise_choice import SHARED_NOISE, can_share_noise, is_noise_open
from fedhealth.config.own_files import list_overridden_values
from fedhealth.config.quoting import quote_value
from fedhealth.config.schema import Config
from fedhealth.config.validate import validate_config
from fedhealth.config.warnings import ConfigWarning, list_warnings
from fedhealth.errors import ConfigError
from fedhealth.protocol.budget_request import PlannedRun
from fedhealth.protocol.job import Job
from fedhealth.runs.run_dir import RunDir
from fedhealth.utils.user_path import expand_user


def make_run_id() -> str:
    """Return an id that no other run has."""
    return uuid.uuid4().hex[:12]


@dataclass(frozen=True)
class RunSpec:
    """A run to launch, to resume or to plan.

    Attributes:
        config: composed from `overrides`.
        overrides: the Hydra overrides, with the noise where they leave it open; lead and sites compose them again.
        run_dir: the run directory.
        config_dir: an additional folder of configuration files; None for none.
        run_id: unique; a sweep chooses the ids of its runs beforehand.
        chosen: the option of every group, as `config` was composed; None composes the overrides again for them.

    """

    config: DictConfig
    overrides: tuple[str, ...]
    run_dir: RunDir
    config_dir: Path | None = None
    run_id: str = field(default_factory=make_run_id)
    chosen: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if self._shares_noise_by_default():
            OmegaConf.update(self.config, "privacy.noise", "shared")
            object.__setattr__(self, "overrides", (*self.overrides, SHARED_NOISE))

    def _shares_noise_by_default(self) -> bool:
        """Return whether the noise is left open, and may be shared: all data are on this machine."""
        if not is_noise_open(self.config.privacy):
            return False
        try:
            plain = resolve_config(self.config)
        except ConfigError:  # something else is missing; the check before the launch names it
            return False
        return read_capabilities(plain).data_are_local and can_share_noise(plain)

    @staticmethod
    def compose(
        overrides: Sequence[str], run_dir: RunDir, config_dir: Path | None = None, run_id: str | None = None
    ) -> RunSpec:
        """Compose the overrides.

        Raises:
            ConfigError: unknown key, option or type.

        """
        composed, chosen = compose_with_choices(overrides, config_dir)
        return RunSpec(composed, tuple(overrides), run_dir, config_dir, run_id or make_run_id(), chosen)

    @cached_property
    def plain(self) -> dict[str, Any]:
        """The resolved configuration as plain dicts and lists."""
        return resolve_config(self.config)

    @cached_property
    def digest(self) -> str:
        """The digest of the configuration."""
        return compute_config_digest(self.config)

    @cached_property
    def capabilities(self) -> Capabilities:
        """What the parts of the configuration declare."""
        return read_capabilities(self.plain)

    @cached_property
    def settings(self) -> Config:
        """The configuration as an object, with absolute paths."""
        settings = OmegaConf.to_object(self._job_config)
        assert isinstance(settings, Config)  # noqa: S101 - the schema's root
        return settings

    @cached_property
    def job_overrides(self) -> tuple[str, ...]:
        """The overrides with absolute paths: valid in any working directory."""
        paths = [f"{key}={quote_value(path)}" for key, path in self._absolute_paths.items()]
        return tuple(reversed(dict.fromkeys(reversed([*self.overrides, *paths]))))  # the last override of a key counts

    @cached_property
    def job(self) -> Job:
        """The job that lead and sites receive; those in this process need not compose it again."""
        if self._composes_like_job:
            keep_composed(self.job_overrides, self._job_config, self._choices)
        folder, config_dir = str(self.run_dir.path.resolve()), str(self.config_dir or "")
        return Job(self.run_id, self.job_overrides, self.digest, folder, config_dir)

    @property
    def planned_run(self) -> PlannedRun:
        """The run as a sweep announces it to the hospitals before it is launched under this id."""
        return PlannedRun(self.run_id, self.job_overrides, self.digest)

    def check(self) -> None:
        """Check the configuration.

        Raises:
            ConfigError: it is invalid, or its overrides replace a component of its method.

        """
        validate_config(self.config, self._locate_part)
        check_method_components(self._choices, self.config_dir)

    def list_warnings(self) -> list[ConfigWarning]:
        """Return the warnings about the configuration, and about own files whose values others override."""
        overridden = list_overridden_values(self.config, self._choices, self.overrides, self.config_dir)
        return [*list_warnings(self.plain, self.capabilities), *overridden]

    def _locate_part(self, place: str) -> str:
        """Return the YAML file that describes the part at a place of the configuration, or the place."""
        group = place.replace(".", "/")
        option = self._choices.get(group, "")
        folders = [*([self.config_dir] if self.config_dir else []), get_conf_dir()]
        paths = [folder / group / f"{option}.yaml" for folder in folders]
        return next((str(path) for path in paths if path.is_file()), place)

    @property
    def _composes_like_job(self) -> bool:
        """Whether the configuration is the job's but for the paths: a command searches a further folder first."""
        return self.chosen is not None and self.config_dir is None

    @cached_property
    def _choices(self) -> Mapping[str, str]:
        """The option of every group, as lead and sites compose the job."""
        if self.chosen is not None and self.config_dir is None:
            return self.chosen
        return compose_once(self.job_overrides, self.config_dir)[1]

    @cached_property
    def _job_config(self) -> DictConfig:
        """The configuration with absolute paths."""
        absolute = deepcopy(self.config)
        for key, path in self._absolute_paths.items():
            OmegaConf.update(absolute, key, str(path))
        return absolute

    @property
    def _absolute_paths(self) -> dict[str, Path]:
        data = self.plain["data"]
        paths = {f"data.{key}": data[key] for key in ("root", "cache")}
        if data["public"]["root"]:
            paths["data.public.root"] = data["public"]["root"]
        return {key: expand_user(path).resolve() for key, path in paths.items()}
