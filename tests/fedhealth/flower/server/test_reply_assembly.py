"""An answer counts when all of it is there: on Flower's own database, as a site and a server application see it."""

import pytest
from flwr.supercore.error import FlowerError
from google.protobuf.message import DecodeError

from fedhealth.flower.server.reply_assembly import ReplyAssembler
from tests.fedhealth.lead.server import Site


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "superlink.db")


def begun(site, word):
    objects, request = site.answer(word)
    answer, whole = site.incoming.begin(request, site.state)
    assert set(answer.objects_to_push) <= set(objects)
    return objects, request, answer, whole


def test_the_server_application_sees_an_answer_when_its_last_object_is_there(site):
    objects, request, answer, whole = begun(site, "yes")
    *others, last = answer.objects_to_push
    for name in others:
        assert site.part(answer.session_id, name, objects[name])[0].stored
    assert (whole, site.shown()) == (False, [])
    told, done = site.part(answer.session_id, last, objects[last])
    assert (told.stored, done) == (True, request)
    assert len(site.shown()) == 1


def test_another_answer_takes_the_place_of_one_that_was_cut_off(site):
    begun(site, "cut off")
    objects, request, answer, _ = begun(site, "whole")
    ends = [site.part(answer.session_id, name, objects[name])[1] for name in answer.objects_to_push]
    assert ends[-1] == request
    (shown,) = site.shown()
    assert shown.metadata.message_id == request.messages_list[0].metadata.message_id


def test_a_server_that_has_forgotten_the_beginning_lets_it_begin_again(site):
    objects, request, answer, _ = begun(site, "yes")
    first, *others = answer.objects_to_push
    site.part(answer.session_id, first, objects[first])
    site.incoming = ReplyAssembler()
    for name in others:
        assert not site.part(answer.session_id, name, objects[name])[0].stored
    again, whole = site.incoming.begin(request, site.state)
    assert whole  # nothing of it has to be sent twice
    assert list(again.objects_to_push) == []
    assert len(site.shown()) == 1


def test_a_run_that_has_ended_takes_nothing(site):
    _, request = site.answer("late")
    site.state.stop_run(site.run)
    with pytest.raises(FlowerError):
        site.incoming.begin(request, site.state)


def test_an_answer_without_its_tree_cannot_be_read(site):
    _, request = site.answer("yes")
    request.ClearField("message_object_trees")
    with pytest.raises(DecodeError):
        site.incoming.begin(request, site.state)
