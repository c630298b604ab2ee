"""Draw a chest radiograph from a phantom, and record it with a scanner's detector.

Opacities (soft bright blobs) are in the lung fields; their number and contrast grow with factor a. Everything else
varies independently of the label: habitus, ribs, heart, vessels, exposure, noise.
"""

from dataclasses import dataclass

import numpy as np

from fedhealth.data.synthetic.types import Float64, StoredPixels


@dataclass(frozen=True)
class Scanner:
    """One detector, and how its console writes DICOM.

    Args:
        rows, columns: detector size in pixels.
        bits: stored per pixel (8, or 10 to 16 in two bytes).
        inverted: MONOCHROME1, low values are bright.
        syntax: "implicit", "explicit" or "rle".
        window: whether the console writes window tags.
        gain: share of the stored range that the picture fills.
        noise: standard deviation, relative to the picture's range of about 1.
        blur: softness of edges, as a share of the field of view.
        maker: fictitious manufacturer.

    """

    rows: int
    columns: int
    bits: int
    inverted: bool
    syntax: str
    window: bool
    gain: float
    noise: float
    blur: float
    maker: str


def draw_chest(rng: np.random.Generator, scanner: Scanner, a: float) -> Float64:
    """Draw the image at the detector -> [rows, columns], about 0 (black) to 1 (white), before noise."""
    y = np.linspace(-1.0, 1.0, scanner.rows)[:, None]
    x = np.linspace(-1.0, 1.0, scanner.columns)[None, :]
    scale = rng.normal(1.0, 0.05)
    lift = rng.normal(0.0, 0.04)
    soft = 0.03 + scanner.blur
    body = _draw_disc(x / 0.95, (y - 0.1) / 1.25, soft)
    lungs = np.zeros_like(body)
    for side in (-1.0, 1.0):
        lungs += _draw_disc((x - side * 0.42 * scale) / (0.30 * scale), (y - lift) / (0.68 * scale), soft)
    ribs = 0.035 * np.sin(2.0 * np.pi * (rng.uniform(2.6, 3.4) * (y + 0.35 * x * x) + rng.random()))
    heart = _draw_disc((x - 0.12) / 0.30, (y - 0.30 - lift) / 0.32, soft)
    picture = 0.05 + 0.50 * body - 0.33 * lungs * (1.0 - 0.7 * heart) + ribs * body + 0.12 * heart
    picture += 0.22 * _draw_disc(x / 0.10, y / 1.6, soft)  # the spine
    picture += lungs * (_draw_opacities(rng, x, y, a, scale, scanner.blur) + _draw_vessels(rng, x, y))
    return picture


def _draw_disc(x: Float64, y: Float64, soft: float) -> Float64:
    """Draw a unit ellipse with value 1 and a soft edge to 0."""
    return np.asarray(np.clip((1.0 - np.sqrt(x * x + y * y)) / (4.0 * soft) + 0.5, 0.0, 1.0))


def _draw_opacities(rng: np.random.Generator, x: Float64, y: Float64, a: float, scale: float, blur: float) -> Float64:
    count = int(np.clip(np.round(4.0 + 2.6 * a + 0.4 * rng.standard_normal()), 0, 11))
    if count == 0:
        return np.zeros((y.size, x.size))
    side = rng.choice([-1.0, 1.0], size=count)
    radius, angle = np.sqrt(rng.random(count)) * 0.8, rng.random(count) * 2.0 * np.pi
    center_x = side * 0.42 * scale + radius * np.cos(angle) * 0.30 * scale
    center_y = radius * np.sin(angle) * 0.65 * scale
    width = np.hypot(rng.uniform(0.08, 0.14, count), blur)
    contrast = np.clip(0.42 + 0.14 * a + 0.04 * rng.standard_normal(count), 0.08, 0.9)
    return _draw_blobs(x, y, center_x, center_y, width, width, contrast)


def _draw_vessels(rng: np.random.Generator, x: Float64, y: Float64) -> Float64:
    """Draw thin faint streaks that do not depend on the label."""
    count = 6
    side = rng.choice([-1.0, 1.0], size=count)
    return _draw_blobs(
        x,
        y,
        side * rng.uniform(0.2, 0.5, count),
        rng.uniform(-0.4, 0.4, count),
        rng.uniform(0.02, 0.15, count),
        rng.uniform(0.02, 0.15, count),
        np.full(count, 0.07),
    )


def _draw_blobs(x: Float64, y: Float64, cx: Float64, cy: Float64, wx: Float64, wy: Float64, height: Float64) -> Float64:
    """Sum axis-aligned Gaussians -> [rows, columns]; separable, so one small matrix product."""
    columns = np.exp(-0.5 * ((x - cx[:, None]) / wx[:, None]) ** 2)
    rows = np.exp(-0.5 * ((y.T - cy[:, None]) / wy[:, None]) ** 2)
    return np.asarray((rows * height[:, None]).T @ columns)


def record_image(rng: np.random.Generator, scanner: Scanner, picture: Float64) -> StoredPixels:
    """Record an image with exposure and noise -> stored values [rows, columns] of `bits` bits."""
    exposure = rng.normal(1.0, 0.04)
    noisy = picture * exposure + scanner.noise * rng.standard_normal(picture.shape)
    top = 2**scanner.bits - 1
    values = np.clip((0.04 + scanner.gain * noisy) * top, 0, top)
    if scanner.inverted:
        values = top - values
    return values.astype(np.uint8 if scanner.bits == 8 else np.uint16)
