from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydicom import dcmread

from fedhealth.data.synthetic import HOSPITALS
from fedhealth.data.synthetic.dicom_file import SyntheticHeader, write_dicom

HEADER = SyntheticHeader("northfield", "P1", "P1-1", 1, 50, "F")


# pydicom wonders when a compressed frame happens to have the uncompressed size.
@pytest.mark.filterwarnings("ignore:The number of bytes of compressed")
@pytest.mark.parametrize("syntax", ["implicit", "explicit", "rle"])
@pytest.mark.parametrize("bits", [8, 12])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_pixels_come_back_as_they_were(tmp_path, syntax, bits, data):
    shape = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 300)))
    kind = np.uint8 if bits == 8 else np.uint16
    # Few different values make the long runs that compression is about.
    few = st.sampled_from([0, 1, 2**bits - 1])
    stored = data.draw(hnp.arrays(kind, shape, elements=few | st.integers(0, 2**bits - 1)))
    scanner = replace(HOSPITALS[0].scanner, rows=shape[0], columns=shape[1], bits=bits, syntax=syntax)
    write_dicom(tmp_path / "a.dcm", HEADER, scanner, stored)
    np.testing.assert_array_equal(dcmread(tmp_path / "a.dcm").pixel_array, stored)


def test_runs_are_compressed(tmp_path):
    stored = np.zeros((64, 200), dtype=np.uint8)
    scanner = replace(HOSPITALS[0].scanner, rows=64, columns=200, bits=8, syntax="rle")
    write_dicom(tmp_path / "a.dcm", HEADER, scanner, stored)
    assert (tmp_path / "a.dcm").stat().st_size < 2500
