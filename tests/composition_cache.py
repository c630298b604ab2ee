"""Compositions by Hydra are kept for a test process: one takes a quarter of a second, and tests need thousands.

Two requests that differ only in the folders of their tests are one composition: these folders are replaced by
placeholders before it, and put back afterwards. Two that choose the same options and set different values are merged
from the same files: what the files say is kept as well, and only the values are set anew.
"""

import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobRuntime
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, open_dict

_MARK = "-of-the-test"


@contextmanager
def keep_compositions(root: Path) -> Iterator[None]:
    """Keep what Hydra composes in this process; configuration files in the tests' own folders are read each time."""
    whole = CompositionCache(ConfigLoaderImpl.load_configuration, root)
    choices = ChoiceCache(
        config_loader_impl.create_defaults_list, ConfigLoaderImpl._compose_config_from_defaults_list, root
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            ConfigLoaderImpl, "load_configuration", lambda loader, *words, **named: whole.load(loader, *words, **named)
        )
        patch.setattr(config_loader_impl, "create_defaults_list", choices.list_defaults)
        patch.setattr(
            ConfigLoaderImpl,
            "_compose_config_from_defaults_list",
            lambda loader, defaults, repo: choices.merge(loader, defaults, repo),
        )
        yield


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


class ChoiceCache:
    """What the files of the chosen options say, before values are set.

    Args:
        list_defaults: Hydra's `create_defaults_list`.
        merge: Hydra's `ConfigLoaderImpl._compose_config_from_defaults_list`.
        root: the folder of the tests' own folders; configuration files in these are read each time.

    """

    def __init__(
        self, list_defaults: Callable[..., DefaultsList], merge: Callable[..., DictConfig], root: Path
    ) -> None:
        self._list_defaults, self._merge, self._root = list_defaults, merge, str(root)
        self._lists = dict[tuple[Any, ...], DefaultsList]()
        self._configs = dict[tuple[Any, ...], bytes]()

    def list_defaults(
        self,
        repo: IConfigRepository,
        config_name: str | None,
        overrides_list: list[Override],
        prepend_hydra: bool,
        skip_missing: bool,
    ) -> DefaultsList:
        """Return what Hydra returns: the files, and the overrides that set values."""
        others, sources = (prepend_hydra, skip_missing), _list_sources(repo)
        if self._root in str(sources):
            return self._list_defaults(repo, config_name, overrides_list, *others)
        chosen = [each.input_line for each in overrides_list if repo.group_exists(each.key_or_group)]
        key = (config_name, *chosen, *others, *sources)
        if key not in self._lists:
            self._lists[key] = self._list_defaults(repo, config_name, overrides_list, *others)
            return self._lists[key]
        kept = self._lists[key]
        values = Overrides(repo, overrides_list).config_overrides
        return DefaultsList(kept.defaults, kept.defaults_tree, values, kept.overrides)

    def merge(self, loader: ConfigLoaderImpl, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        """Return what Hydra returns: all files in one configuration."""
        sources = _list_sources(repo)
        if self._root in str(sources):
            return self._merge(loader, defaults, repo)
        key = (*((each.config_path, each.package, each.parent, each.is_self) for each in defaults), *sources)
        if key not in self._configs:
            self._configs[key] = pickle.dumps(self._merge(loader, defaults, repo))
        config: DictConfig = pickle.loads(self._configs[key])
        return config


def _list_sources(repo: IConfigRepository) -> list[tuple[str, str]]:
    return [(each.provider, each.path) for each in repo.get_sources()]


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
