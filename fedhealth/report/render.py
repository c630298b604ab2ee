"""Render the report of a run as one self-contained HTML page for screen and print, without scripts or network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from importlib.resources import files
from itertools import count
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from fedhealth.report.notices import collect_notices
from fedhealth.report.page import Chart, Page
from fedhealth.report.sections import build_sections
from fedhealth.report.summary import build_tiles, summarize_run
from fedhealth.report.svg import figure_to_svg, use_house_style
from fedhealth.runs.load_record import load_run_record
from fedhealth.runs.record import RunRecord

_GLOSS = (
    "AUROC: how often the model scores a patient with the finding higher than a patient without it; 0.5 is guessing, "
    "1 is perfect. Brackets show 95\N{NO-BREAK SPACE}% confidence intervals."
)


def render_run_report(run: Path) -> str:
    """Return the report of a run directory as an HTML document.

    Args:
        run: the run directory; the run need not have completed.

    """
    record = load_run_record(run)
    return render_page(lambda: build_run_page(record))


def render_page(make: Callable[[], Page]) -> str:
    """Return the HTML document of the page that `make` returns; `make` is called within the house style of charts."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files(__package__).joinpath("report.html.j2").read_text("utf-8"))
    with use_house_style():
        page = make()
        return template.render(
            **{field.name: getattr(page, field.name) for field in fields(page)},
            draw=_make_chart_renderer(),
        )


def build_run_page(run: RunRecord) -> Page:
    """Return the page of a run's report."""
    return Page(
        kind="Federated training report",
        title=run.info.name or run.folder,
        summary=summarize_run(run),
        gloss=_GLOSS,
        tiles=build_tiles(run),
        notices=collect_notices(run),
        sections=build_sections(run),
        facts=list_run_facts(run),
        config=run.config_text,
    )


def list_run_facts(run: RunRecord) -> tuple[tuple[str, str], ...]:
    """Return how the run was made, as (name, value) pairs."""
    versions = run.info.versions.split()
    pairs = (
        ("Run", run.info.run),
        ("Started", _format_time(run.info.started)),
        ("Finished", _format_time(run.info.finished)),
        ("Versions", ", ".join(version.replace("=", "\N{NO-BREAK SPACE}") for version in versions)),
        ("Source revision", run.info.revision),
        ("Seed", run.get_setting("seed")),
        ("Configuration digest", run.info.digest),
        ("Command-line overrides", " ".join(run.info.overrides)),
    )
    return tuple((name, str(value)) for name, value in pairs if value not in (None, ""))


def _format_time(moment: object) -> str | None:
    """Return `2026-01-31 09:30:00 UTC`."""
    return str(moment).replace("T", " ").replace("+00:00", " UTC") if moment else None


def _make_chart_renderer() -> Callable[[Chart], str]:
    """Return a function that converts charts to SVG, each with its own ids."""
    number = count(1)
    return lambda chart: figure_to_svg(chart.figure, f"chart-{next(number)}", chart.title, chart.description)
