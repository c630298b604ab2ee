"""The grid in this process: answers are made when asked for, and what nobody asks for is forgotten."""

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedhealth.flower.in_process_grid import InProcessGrid, reply_in_turn


def grid_of(worked):
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        worked.append(context.node_config["site"])
        return Message(RecordDict(), reply_to=message)

    return InProcessGrid(reply_in_turn(app), ["north", "south"], {})


def test_an_answer_is_made_when_it_is_asked_for_and_once():
    worked = []
    grid = grid_of(worked)
    first, second = grid.push_messages([Message(RecordDict(), node, "query") for node in grid.get_node_ids()])
    (reply,) = grid.pull_messages([second])
    assert (reply.metadata.reply_to_message_id, worked) == (second, ["south"])
    assert list(grid.pull_messages([second])) == []
    assert len(list(grid.pull_messages([first]))) == 1


def test_what_nobody_asked_for_is_forgotten_with_the_next_messages():
    worked = []
    grid = grid_of(worked)
    for _ in range(3):
        pushed = grid.push_messages([Message(RecordDict(), node, "query") for node in grid.get_node_ids()])
        list(grid.pull_messages(pushed[:1]))  # enough have answered
    assert len(grid._pushed) == 1
    assert worked == ["north"] * 3
