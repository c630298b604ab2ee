"""Changes to Flower's private state and behaviour, each with its reason; nothing else in this project patches Flower.

All other private interfaces of Flower that we use are imported in this package too, and docs/decisions/flower.md lists
them. `tests/fedhealth/flower/test_flower_seams.py` fails when one of them changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from flwr.app import Message
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.supercore.task_identity import TaskIdentity

CHECKED_FLOWER_RELEASE = "1.42"  # the Flower release that every patch and every private import was checked against

_PULL_BACKOFF_SECONDS = 0.05
_CLEANUP_SECONDS = 1.0  # between two clean-ups of expired task tokens


def shorten_pull_backoff() -> None:
    """Shorten the wait between two attempts to pull a reply's objects.

    Reason: Flower waits one second before the second attempt, so every reply would cost a second.
    """
    (pull_objects.__kwdefaults__ or {})["initial_backoff"] = _PULL_BACKOFF_SECONDS


def limit_token_cleanup(state: Any) -> None:
    """Make Flower's link state clean up expired task tokens at most once a second.

    Reason: Flower cleans up before every request, and the clean-up writes to the database: requests then wait for each
    other's lock, which was two thirds of a round's time. A token expires after half a minute, so a second more does not
    matter.
    """
    clean_up, next_due = state._cleanup_expired_task_tokens, 0.0

    def clean_up_when_due() -> None:
        nonlocal next_due
        if time.monotonic() >= next_due:
            next_due = time.monotonic() + _CLEANUP_SECONDS
            clean_up()

    state._cleanup_expired_task_tokens = clean_up_when_due


def set_task_identity(run_id: int, node_id: int, task_id: int = 1) -> None:
    """Set the run, node and task that Flower's messages take as their sender.

    Reason: Flower sets these process-wide values in its own worker processes only, and our workers are not Flower's.
    """
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, node_id, task_id


def set_message_id(message: Message, message_id: str) -> None:
    """Set a message's id.

    Reason: only Flower's SuperLink and its own grids give ids; the metadata has no public setter.
    """
    message.metadata.__dict__["_message_id"] = message_id


def restrict_http_client(client: Any, response_hook: Callable[[Any], None]) -> None:
    """Make one of Flower's HTTP clients call `response_hook` before it reads a response, and follow no redirects.

    Reason: Flower reads responses of any size and follows redirects to any host.
    """
    client._client.event_hooks, client._client.follow_redirects = {"response": [response_hook]}, False
