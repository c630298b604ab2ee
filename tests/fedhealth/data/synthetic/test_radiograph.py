from dataclasses import replace

import numpy as np
import pytest

from fedhealth.data.synthetic import HOSPITALS
from fedhealth.data.synthetic.radiograph import draw_chest, record_image

SCANNER = HOSPITALS[0].scanner


def lungs(a, count=40):
    rng = np.random.default_rng(5)
    pictures = [draw_chest(rng, SCANNER, a) for _ in range(count)]
    return np.mean([picture[40:88, 20:108].mean() for picture in pictures])


def test_opacities_grow_with_the_factor():
    assert lungs(-1.5) < lungs(0.0) < lungs(1.5)


@pytest.mark.parametrize("hospital", HOSPITALS, ids=lambda hospital: hospital.name)
def test_detectors_use_their_own_range(hospital):
    rng = np.random.default_rng(0)
    scanner = hospital.scanner
    stored = record_image(rng, scanner, draw_chest(rng, scanner, 0.0))
    assert stored.shape == (scanner.rows, scanner.columns)
    assert 2 ** (scanner.bits - 2) < stored.max() < 2**scanner.bits


def test_an_inverted_detector_stores_the_complement():
    picture = draw_chest(np.random.default_rng(0), SCANNER, 0.0)
    plain = record_image(np.random.default_rng(1), SCANNER, picture).astype(int)
    inverted = record_image(np.random.default_rng(1), replace(SCANNER, inverted=True), picture)
    assert np.abs(4095 - plain - inverted).max() <= 1
