"""Compositions by Hydra are kept for a test process: one takes a quarter of a second, and tests need thousands.

Two requests that differ only in the folders of their tests are one composition: these folders are replaced by
placeholders before it, and put back afterwards.
"""

import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.utils import JobRuntime
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, open_dict

_MARK = "-of-the-test"


class CompositionCache:
    """Hydra's `ConfigLoaderImpl.load_configuration` with a memory.

    Args:
        load: that function.
        root: the folder of the tests' own folders; configuration files in these are read each time.

    """

    def __init__(self, load: Callable[..., DictConfig], root: Path) -> None:
        self._load, self._root = load, str(root)
        self._folder = re.compile(re.escape(self._root) + r"[\w./-]*")
        self._cache = dict[tuple[Any, ...], bytes]()

    def load(
        self,
        loader: ConfigLoaderImpl,
        config_name: str | None,
        overrides: Sequence[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Return what Hydra returns."""
        others = (run_mode, from_shell, validate_sweep_overrides)
        paths = [(each.provider, each.path) for each in loader.get_search_path().get_path()]
        if any("searchpath" in each for each in overrides) or any(self._root in str(path) for _, path in paths):
            return self._load(loader, config_name, [*overrides], *others)
        folders = dict.fromkeys(found for each in overrides for found in self._folder.findall(each))
        names = {folder: f"/folder-{number}{_MARK}" for number, folder in enumerate(folders)}
        general = [self._folder.sub(lambda found: names[found[0]], each) for each in overrides]
        key = (config_name, *general, *others, *paths, JobRuntime().get("name"))
        if key not in self._cache:
            try:
                self._cache[key] = pickle.dumps(self._load(loader, config_name, general, *others))
            except Exception:
                if not folders:
                    raise
                return self._load(loader, config_name, [*overrides], *others)  # its error names the real folders
        config: DictConfig = pickle.loads(self._cache[key])
        _replace_texts(config, {name: folder for folder, name in names.items()})
        with open_dict(config):
            config.hydra.runtime.cwd = str(Path.cwd())
        return config


def _replace_texts(node: DictConfig | ListConfig, names: Mapping[str, str]) -> None:
    """Put the folders into every text of a configuration."""
    content = node._content if names else None
    for each in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        if isinstance(each, DictConfig | ListConfig):
            _replace_texts(each, names)
        elif isinstance(value := each._value(), str) and _MARK in value:
            for name, folder in names.items():
                value = value.replace(name, folder)
            vars(each)["_val"] = value
