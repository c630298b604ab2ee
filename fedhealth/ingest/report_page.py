"""Render the ingest report as one self-contained HTML page without scripts."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from fedhealth.data.dataset import SiteDataset
from fedhealth.data.manifest import SPLITS

_SAMPLES, _SIDE = 12, 128


def render_page(report: dict[str, Any], dataset: SiteDataset) -> str:
    """Return the page as HTML.

    Args:
        report: the result of `fedhealth.ingest.report.build_ingest_report`.
        dataset: the dataset whose images are shown.

    """
    environment = Environment(
        loader=PackageLoader("fedhealth.ingest", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html.j2").render(
        report=report, splits=SPLITS, samples=_select_samples(dataset)
    )
    return page.encode("utf-8", "replace").decode()


def _select_samples(dataset: SiteDataset) -> list[str]:
    """Return some images, evenly selected, as data URIs."""
    if not len(dataset.images):
        return []
    slots = np.unique(np.linspace(0, len(dataset.images) - 1, _SAMPLES).astype(int))
    return [_encode_data_uri(np.asarray(dataset.images[slot])) for slot in slots]


def _encode_data_uri(pixels: np.ndarray) -> str:
    bright = (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
    picture = Image.fromarray(bright[0] if len(bright) == 1 else bright.transpose(1, 2, 0))
    picture.thumbnail((_SIDE, _SIDE))
    file = BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
