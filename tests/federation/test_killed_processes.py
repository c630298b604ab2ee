"""Any process of a real consortium, killed at any moment and started again, changes nothing of the result.

`make faults` runs the whole matrix; `make test` a case of each process.
"""

import os

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.federation.conftest import LOOSE, SITES

pytestmark = pytest.mark.xdist_group("federation")

PLAIN = ["secagg=off", "seed=5", "strategy.rounds=2", "training=sgd", "training.threads=1"]
SEALED = [*PLAIN, "secagg=on"]
CALLS = {  # which call: in the second round where there is a choice
    "before train": 2,
    "while training": 3,
    "after upload": 6,
    "before unmask": 2,
    "while unmasking": 2,
    "while checkpointing": 2,
    "between rounds": 2,
}
INSIDE = ("while training", "while unmasking")  # calls of the worker's own
VICTIMS = ("server application", "lead", "site", "worker", "all of them")
IN_TURN = [
    ("server application", "after upload"),
    ("lead", "while training"),
    ("site", "while unmasking"),
    ("worker", "while training"),
    ("all of them", "while checkpointing"),
]
MATRIX = [(victim, moment) for victim in VICTIMS for moment in CALLS]
CASES = MATRIX if os.environ.get("FEDHEALTH_FAULTS") == "full" else IN_TURN


@pytest.fixture(scope="module", name="undisturbed")
def undisturbed_(consortium, tmp_path_factory):
    made = {}

    def model(*words):
        if words not in made:
            consortium.agree(LOOSE)
            run = consortium.run(tmp_path_factory.mktemp("calm") / "run", *words)
            made[words] = load_file(run.path / "model.safetensors")
        return made[words]

    return model


def strike(consortium, victim, moment):
    """Kill the victim at the moment."""
    call = CALLS[moment]
    if victim == "worker":
        consortium.wish(moment, call, *(("itself",) if moment in INSIDE else ("workers", SITES[0])))
    elif victim == "server application":
        consortium.wish(moment, call, victim)
    else:
        names = {"lead": ("lead",), "site": SITES[:1], "all of them": ("lead", *SITES)}[victim]
        consortium.wish(moment, call, "processes", *names)


@pytest.mark.parametrize(("victim", "moment"), CASES)
def test_a_killed_process_changes_nothing(consortium, undisturbed, tmp_path, victim, moment):
    words = SEALED if "unmask" in moment else PLAIN
    expected = undisturbed(*words)
    with consortium.supervised():
        strike(consortium, victim, moment)
        run = consortium.run(tmp_path / "run", *words)
    assert consortium.fulfilled, "the moment never came"
    assert run.about["state"] == "completed"
    rounds = [event["round"] for event in run.events()[0] if event["event"] == "round_completed"]
    assert rounds == [1, 2] or rounds == [1, 2, 2]  # a round whose checkpoint was lost is done again
    for name, array in load_file(run.path / "model.safetensors").items():
        if words is PLAIN:
            assert np.array_equal(array, expected[name]), name
        else:
            assert np.allclose(array, expected[name], atol=1e-6), name
