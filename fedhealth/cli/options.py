"""Options shared by several commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

LeadFolder = Annotated[
    Path | None, typer.Option("--home", help="The lead's folder; default: FEDHEALTH_LEAD, or ~/.fedhealth-lead.")
]
SiteFolder = Annotated[
    Path | None, typer.Option("--home", help="The site's folder; default: FEDHEALTH_HOME, or ~/.fedhealth.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Port = Annotated[int | None, typer.Option(min=1, max=65535, help="Serve on this port of 127.0.0.1 instead.")]
