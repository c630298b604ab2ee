"""The lead's page, served."""

import pytest

from tests.fedhealth.lead.web.consortium import serve_lead
from tests.fedhealth.web.place import make_refusal_check


@pytest.fixture(name="refused")
def refused_(place):
    """`refused(answer, status, reason)`, see `make_refusal_check`."""
    return make_refusal_check(place)


@pytest.fixture(scope="module", name="place")
def place_(tmp_path_factory):
    """The lead, served."""
    with serve_lead(tmp_path_factory.mktemp("web")) as place:
        yield place
