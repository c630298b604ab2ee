"""Render a run's record as one HTML page that can be printed: no script, no external resource."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedhealth.site.run_history import SiteRunRecord
from fedhealth.site.run_text import describe_run
from fedhealth.utils.time_text import format_time


def render_run_record(record: SiteRunRecord, site: str, digest: str) -> str:
    """Return the page as HTML.

    Args:
        record: of the run.
        site: the hospital's name.
        digest: of the audit log that the record was made from.

    """
    loader = PackageLoader("fedhealth.site", "")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("run_page.html.j2").render(
        record=record, site=site, digest=digest, facts=list(describe_run(record)), format_time=format_time
    )
