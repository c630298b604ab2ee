"""The report as one HTML page, without scripts and without anything from elsewhere."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from fedhealth.data.dataset import Cohort
from fedhealth.data.manifest import SPLITS

_SAMPLES, _SIDE = 12, 128


def render(report: dict[str, Any], cohort: Cohort) -> str:
    """Return the page.

    Args:
        report: what `fedhealth.ingest.report.describe` returns.
        cohort: whose images are shown.

    """
    environment = Environment(
        loader=PackageLoader("fedhealth.ingest", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html.j2").render(report=report, splits=SPLITS, samples=_samples(cohort))
    return page.encode("utf-8", "replace").decode()


def _samples(cohort: Cohort) -> list[str]:
    """Return some images, evenly chosen, as data addresses."""
    if not len(cohort.images):
        return []
    slots = np.unique(np.linspace(0, len(cohort.images) - 1, _SAMPLES).astype(int))
    return [_address(np.asarray(cohort.images[slot])) for slot in slots]


def _address(pixels: np.ndarray) -> str:
    bright = (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
    picture = Image.fromarray(bright[0] if len(bright) == 1 else bright.transpose(1, 2, 0))
    picture.thumbnail((_SIDE, _SIDE))
    file = BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
