"""What tests need not pay for each time: garbage among modules, imports of forked processes, charts nobody looks at."""

import gc
import multiprocessing
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from multiprocessing.context import BaseContext

import pytest
from matplotlib.figure import Figure

from fedhealth.report import render, svg

FORKED = (
    "fedhealth.utils.silent_interrupt",
    "clients.app",
    "fedhealth.experiment.rehearsal",
    "fedhealth.ingest.pipeline",
    "fedhealth.models.encoders.image",
    "fedhealth.models.encoders.text",
    "fedhealth.runtime.site_workers",
    "fedhealth.site.worker",
    "fedhealth.training.dpsgd_trainer",
    "torch._dynamo",
)
FEW = 3  # tests of a module that any process may run


def pytest_configure() -> None:
    """Look for no garbage while tests are collected: there is none."""
    gc.disable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one process run a module's tests: their fixtures and compositions are made once. A few tests fill the end."""
    modules = Counter(item.path for item in items)
    for item in items:
        if modules[item.path] > FEW and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_collection_finish() -> None:
    """Look for garbage again, but never among the modules and tests themselves: a fifth of all time went there."""
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    """Let libraries count what they made: objects that outlive the interpreter count as leaks."""
    gc.unfreeze()


@contextmanager
def fork_from_one_server() -> Iterator[None]:
    """All processes are forked from one server, which keeps what the first test preloads: let it be what any needs."""
    multiprocessing.set_forkserver_preload([*FORKED])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseContext, "set_forkserver_preload", lambda context, modules: None)
        yield


@contextmanager
def leave_charts_undrawn() -> Iterator[None]:
    """A report has everything but the lines of its charts, which are half the time of a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(render, "figure_to_svg", _describe_figure)
        yield


@contextmanager
def draw_charts() -> Iterator[None]:
    """Draw them all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(render, "figure_to_svg", svg.figure_to_svg)
        yield


def _describe_figure(figure: Figure, key: str, title: str, description: str) -> str:
    return f'<svg role="img" id="{key}"><title>{escape(title)}</title><desc>{escape(description)}</desc></svg>'
