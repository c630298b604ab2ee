"""Answers that a server application was handed and has not confirmed: it gets them once more when it asks again.

Flower forgets an answer as it hands it out. A server that ended before what it said had left would have lost it, and
with it a site's work. What was handed out lies on the lead's disk until the server application has it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from google.protobuf.message import DecodeError

from fedhealth.utils.private_files import make_folder


class Unconfirmed:
    """By question, the answer without its content; may be used from several threads.

    Args:
        folder: of the lead's.

    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = make_folder(folder), threading.Lock()
        self._answers: dict[str, PullAppMessagesResponse] = {}
        for path in folder.glob("*.answer"):
            answer = _read(path)
            if answer is None:
                path.unlink()
            else:
                self._answers[path.stem] = answer

    def took(self, answers: PullAppMessagesResponse) -> None:
        """Remember what is handed over, before it is."""
        with self._lock:
            for message, tree in zip(answers.messages_list, answers.message_object_trees, strict=True):
                if question := message.metadata.reply_to_message_id:
                    answer = PullAppMessagesResponse(messages_list=[message], message_object_trees=[tree])
                    draft = self._path(question).with_suffix(".draft")
                    draft.write_bytes(answer.SerializeToString())
                    draft.replace(self._path(question))  # not synced: it outlasts the server's process, as it has to
                    self._answers[question] = answer

    def again(self, questions: Iterable[str]) -> PullAppMessagesResponse:
        """Return the answers that were handed out before to some questions; who has them does not ask."""
        found = PullAppMessagesResponse()
        with self._lock:
            for question in questions:
                if question in self._answers:
                    found.MergeFrom(self._answers[question])
        return found

    def confirmed(self, message: str) -> None:
        """Forget an answer, by its own id: it has arrived."""
        with self._lock:
            for question, answer in list(self._answers.items()):
                if answer.messages_list[0].metadata.message_id == message:
                    del self._answers[question]
                    self._path(question).unlink(missing_ok=True)

    def _path(self, question: str) -> Path:
        return self._folder / f"{question}.answer"


def _read(path: Path) -> PullAppMessagesResponse | None:
    """Return an answer that somebody may still wait for."""
    try:
        answer = PullAppMessagesResponse.FromString(path.read_bytes())
    except (OSError, DecodeError):
        return None
    about: Any = answer.messages_list[0].metadata if answer.messages_list else None
    return answer if about and about.created_at + about.ttl > time.time() else None
