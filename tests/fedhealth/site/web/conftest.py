"""The hospital's page, served."""

import pytest

from tests.fedhealth.site.web.hospital import serve_hospital
from tests.fedhealth.web.place import make_refusal_check


@pytest.fixture(name="refused")
def refused_(place):
    """`refused(answer, status, reason)`, see `make_refusal_check`."""
    return make_refusal_check(place)


@pytest.fixture(scope="module", name="place")
def place_(tmp_path_factory, good_hospitals):
    """The hospital, served; a test leaves the decisions as they were."""
    with serve_hospital(tmp_path_factory.mktemp("web"), good_hospitals) as place:
        yield place
