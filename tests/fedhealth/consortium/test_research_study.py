"""A study: signed, strict to read, and its versions compared in words."""

import json
from contextlib import suppress
from dataclasses import replace

import pytest

from fedhealth.consortium.research_study import SignedStudy, sign_study, verify_study
from fedhealth.consortium.study_text import describe_changes, describe_study, is_minor_change
from fedhealth.errors import TrustError
from fedhealth.utils.private_files import load_signing_key
from tests.clients.studies import make_study
from tests.fedhealth.site.trust import Consortium

WORDS = ("experiment=demo", "data.sites=[charite,klinikum]", "seed=0")


@pytest.fixture(name="consortium", scope="module")
def consortium_(tmp_path_factory):
    return Consortium(tmp_path_factory.mktemp("consortium"))


@pytest.fixture(name="study", scope="module")
def study_():
    return make_study(WORDS, open={"seed": (0, 1)}, runs=2)


@pytest.fixture(name="content", scope="module")
def content_(study, consortium):
    return sign_study(study, load_signing_key(consortium.lead.consortium_key)).dumps()


def test_what_was_signed_is_read_again(study, content, consortium):
    found = verify_study(content, consortium.membership()).study
    assert found == study
    assert found.digest == study.digest
    assert (study.members, study.epsilon) == (("charite", "klinikum"), 16.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "../etc"),
        ("version", 0),
        ("version", True),
        ("title", ""),
        ("purpose", "two\nlines"),
        ("last_day", "2020-01-01"),
        ("first_day", "soon"),
        ("first_day", "20260101"),
        ("last_day", "2026-W53-7"),
        ("last_day", "2099-12-31T00:00"),
        ("last_day", "9999-12-31"),  # its end is no time that a machine can name
        ("last_day", "２０９９-12-31"),
        ("title", "\u3164"),
        ("purpose", "\u2800\u2800"),
        ("contact", "x" + " " * 69 + "  budget     epsilon 0.1"),
        ("ethics", "EK 12\ufe0f/2026"),
        ("releases", ["the model\u115f"]),
        ("overrides", ["seed=\uffa0"]),
        ("members", ["klinikum", "charite"]),
        ("runs", 0),
        ("epsilon", 0),
        ("epsilon", "8"),
        ("delta", 1.0),
        ("configuration", {}),
        ("configuration", {"data": {"name": "x"}}),  # nobody could be shown what the data mean
        ("configuration", {"data": {}, "name": "a\x1b[2J"}),
        ("open", [{"path": "zzz", "values": ["\u202e"], "may_be_absent": False}]),
        ("open", [{"path": "data.task.classes", "values": [1], "may_be_absent": False}]),
        ("open", [{"path": "seed", "values": [1]}, 3]),
        ("open", [{"path": "zzz", "values": ["\u3164"], "may_be_absent": False}]),
        ("open", [{"path": "privacy._target_", "values": ["x"], "may_be_absent": False}]),
        ("open", [{"path": "privacy.unit", "values": ["record"], "may_be_absent": False}]),
        ("open", [{"path": "privacy.epsilon", "values": [8.0], "may_be_absent": True}]),
        ("open", [{"path": "purpose", "values": ["train"], "may_be_absent": False}]),
        (
            "open",
            [
                {
                    "path": "secagg.site._target_",
                    "values": ["x"],
                    "may_be_absent": False,
                }
            ],
        ),
        ("open", [{"path": "secagg.lead._target_", "values": ["x"], "may_be_absent": False}]),
        ("open", [{"path": "privacy.noise", "values": [[1], "local"], "may_be_absent": False}]),
        ("name", "1c3ab7a72e5f"),  # people name studies by the beginning of their digest too
        ("members", ["charite", "klinikum", "zurich"]),
        ("closed", 1),
        ("surprise", 1),
    ],
)
def test_a_malformed_study_is_refused(content, field, value):
    fields = json.loads(content)
    fields["study"][field] = value
    with pytest.raises(TrustError, match="The study: "):
        SignedStudy.loads(json.dumps(fields).encode())


@pytest.mark.parametrize("value", [True, 5, -1, None, [], {}, 1.5, "x"])
@pytest.mark.parametrize("key", ["data.sites.0", "data.sites", "data.max_rejected", "data.split.test"])
def test_a_value_of_another_kind_in_the_configuration_is_refused_or_harmless(content, key, value):
    refuse_or_read(content, key, value)


@pytest.mark.parametrize("key", ["data.max_rejected", "data.split.test", "data.tabular.crp.center"])
def test_a_huge_number_in_the_configuration_is_refused_or_harmless(content, key):
    refuse_or_read(content, key, 10**400)


def refuse_or_read(content, key, value):
    """A file from anybody: it is a study, or there is one kind of error."""
    fields = json.loads(content)
    *path, last = (int(part) if part.isdigit() else part for part in key.split("."))
    place = fields["study"]["configuration"]
    for part in path:
        place = place[part] if isinstance(place, list) else place.setdefault(part, {})
    place[last] = value
    with suppress(TrustError):
        SignedStudy.loads(json.dumps(fields).encode())


def test_a_changed_study_or_one_of_others_is_refused(study, content, consortium):
    fields = json.loads(content)
    fields["study"]["ethics"] = "EK 99/2026"
    with pytest.raises(TrustError, match="not signed"):
        verify_study(json.dumps(fields).encode(), consortium.membership())
    foreign = sign_study(replace(study, project="others"), load_signing_key(consortium.lead.consortium_key))
    with pytest.raises(TrustError, match="project others"):
        verify_study(foreign.dumps(), consortium.membership())
    for damaged in (b"", b"{}", content[:-1], b"[1]", b"null"):
        with pytest.raises(TrustError):
            verify_study(damaged, consortium.membership())


def test_the_text_says_what_a_person_decides_on(study):
    text = "\n".join(describe_study(study))
    for part in (study.title, study.purpose, study.contact, study.ethics, "runs       2", "epsilon 16 at delta"):
        assert part in text
    assert "seed: 0, 1" in text
    assert "a number" in text


def test_versions_differ_in_words(study):
    later = make_study((*WORDS[:2], "seed=0", "training.batch_size=64"), 2, ethics="EK 13/2026", open={"seed": (0, 2)})
    changes = list(describe_changes(study, later))
    assert "ethics: EK 12/2026 is now EK 13/2026" in changes
    assert "runs: 2 is now 1" in changes
    assert "training.batch_size: 256 is now 64" in changes
    assert "runs may vary seed: 0, 1 is now 0, 2" in changes
    assert list(describe_changes(study, replace(study, version=2))) == []
    assert list(describe_changes(study, replace(study, closed=True))) == ["the lead has closed the study"]


@pytest.mark.parametrize("hidden", ["\x1b[2J", "one\ntwo", "\u202eright to left", "\u2028"])
@pytest.mark.parametrize("place", ["value", "key"])
def test_no_text_forges_or_hides_a_line(study, consortium, hidden, place):
    more = {"name": hidden} if place == "value" else {hidden: 1}
    forged = replace(study, configuration={**study.configuration, **more})
    with pytest.raises(TrustError, match="not printable"):
        SignedStudy.loads(sign_study(forged, load_signing_key(consortium.lead.consortium_key)).dumps())


def test_a_change_behind_the_part_that_is_shown_is_named(study):
    long = [replace(study, open=(replace(study.open[0], values=("x" * 120 + end,)),)) for end in ("a", "b")]
    (change,) = describe_changes(*long)
    assert change.count("SHA-256") == 2
    assert change.count("121 characters") == 2


def test_only_dates_and_texts_are_minor(study):
    assert is_minor_change(study, replace(study, version=2, last_day="2098-01-01", contact="somebody@lead.example"))
    for change in ({"runs": 3}, {"epsilon": 17.0}, {"ethics": "EK 13/2026"}, {"closed": True}, {"open": ()}):
        assert not is_minor_change(study, replace(study, **change))
