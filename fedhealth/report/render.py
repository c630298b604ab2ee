"""The run directory as one self-contained HTML page: no script, no network, light, dark and on paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from importlib.resources import files
from itertools import count
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from fedhealth.report.notices import notices
from fedhealth.report.page import Chart, Page
from fedhealth.report.sections import sections
from fedhealth.report.summary import summary, tiles
from fedhealth.report.svg import house_style, inline
from fedhealth.runs.load_record import collect
from fedhealth.runs.record import Run

_GLOSS = (
    "AUROC: how often the model ranks a patient with the finding above one without; 0.5 is guessing, 1 is perfect. "
    "In brackets: 95\N{NO-BREAK SPACE}% confidence intervals."
)


def render(run: Path) -> str:
    """Return the report of a run directory as an HTML document.

    Args:
        run: the run directory; the run may still be about to complete.

    """
    found = collect(run)
    return render_page(lambda: page_of(found))


def render_page(make: Callable[[], Page]) -> str:
    """Return the HTML document of the page that `make` returns; its charts are drawn in the house's style."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files(__package__).joinpath("report.html.j2").read_text("utf-8"))
    with house_style():
        page = make()
        return template.render(
            **{field.name: getattr(page, field.name) for field in fields(page)},
            draw=_drawing(),
        )


def page_of(run: Run) -> Page:
    """Return the report of a run."""
    return Page(
        kind="Federated training report",
        title=str(run.about.get("name") or run.folder),
        summary=summary(run),
        gloss=_GLOSS,
        tiles=tiles(run),
        notices=notices(run),
        sections=sections(run),
        facts=facts(run),
        config=run.config_text,
    )


def facts(run: Run) -> tuple[tuple[str, str], ...]:
    """Return how the run was made, as (name, value)."""
    versions = str(run.about.get("versions", "")).split()
    pairs = (
        ("Run", run.about.get("run")),
        ("Started", _readable(run.about.get("started"))),
        ("Finished", _readable(run.about.get("finished"))),
        ("Versions", ", ".join(version.replace("=", "\N{NO-BREAK SPACE}") for version in versions)),
        ("Source revision", run.about.get("revision")),
        ("Seed", run.setting("seed")),
        ("Configuration digest", run.about.get("digest")),
        ("Asked for with", " ".join(map(str, run.about.get("words", ())))),
    )
    return tuple((name, str(value)) for name, value in pairs if value not in (None, ""))


def _readable(moment: object) -> str | None:
    """Write `2026-01-31 09:30:00 UTC`."""
    return str(moment).replace("T", " ").replace("+00:00", " UTC") if moment else None


def _drawing() -> Callable[[Chart], str]:
    """Return what draws charts, each with ids of its own."""
    number = count(1)
    return lambda chart: inline(chart.figure, f"chart-{next(number)}", chart.title, chart.description)
