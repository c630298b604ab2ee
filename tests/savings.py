"""What tests need not pay for each time: imports of forked processes, and charts that nobody looks at."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from multiprocessing.context import BaseContext

import pytest
from matplotlib.figure import Figure

from fedhealth.report import render, svg

FORKED = (
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
