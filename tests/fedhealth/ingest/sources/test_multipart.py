"""The one part of a multipart answer, byte for byte; anything else is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.ingest.sources import multipart

KIND = 'multipart/related; type="application/dicom"; boundary="{}"'


def extract_only_part(content, kind):
    return multipart.extract_only_part(content, kind, "application/dicom")


def wrap(content, boundary="b0", tail=b"--\r\n"):
    mark = boundary.encode()
    return b"--" + mark + b"\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--" + mark + tail


@given(st.binary(max_size=200), st.sampled_from(["b0", "x-y_z.1", "'quoted'"]))
def test_a_part_is_returned_as_it_was_sent(content, boundary):
    if b"--" + boundary.encode() not in content:
        assert extract_only_part(wrap(content, boundary), KIND.format(boundary)) == content


def test_blanks_in_the_content_are_its_own():
    assert extract_only_part(wrap(b"\r\n\r\na\r\n"), KIND.format("b0")) == b"\r\n\r\na\r\n"


def test_some_archives_send_the_instance_without_an_envelope():
    assert extract_only_part(b"DICM", "application/dicom") == b"DICM"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (wrap(b"a"), "multipart/related"),
        (wrap(b"a")[:-8], KIND.format("b0")),
        (wrap(b"a", tail=b"\r\n\r\nb\r\n--b0--"), KIND.format("b0")),
        (b"", KIND.format("b0")),
        (b"[]", ""),
        (b"<html></html>", "text/html"),
        (wrap(b"a"), KIND.format("other")),
        (b"--b0 without an end of its head", KIND.format("b0")),
    ],
)
def test_what_is_not_one_whole_part_is_refused(content, kind):
    with pytest.raises(ValueError, match=r"."):
        extract_only_part(content, kind)
