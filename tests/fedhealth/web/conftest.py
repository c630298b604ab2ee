"""The page of either side, served."""

import pytest

from tests.fedhealth.lead.web.consortium import serve_lead
from tests.fedhealth.site.web.hospital import serve_hospital
from tests.fedhealth.web.place import make_refusal_check


@pytest.fixture(scope="module", name="place", params=["site", "lead"])
def place_(request, tmp_path_factory, good_hospitals):
    """One side and its page."""
    root = tmp_path_factory.mktemp(request.param)
    with serve_hospital(root, good_hospitals) if request.param == "site" else serve_lead(root) as place:
        yield place


@pytest.fixture(name="refused")
def refused_(place):
    """`refused(answer, status, reason)`, see `make_refusal_check`."""
    return make_refusal_check(place)
