"""An application that does as the message's type says, to try what a runner does about it."""

import os
import signal
import time

import torch
from flwr.app import ConfigRecord, Message, RecordDict


def app(message, context):
    """Answer, crash, hang, or need too much memory."""
    action = message.metadata.message_type.rpartition(".")[2]
    if action == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "hang":
        time.sleep(600)
    if action == "swell":
        held = b"x" * 10**9
        time.sleep(600)
        del held
    flushed = float(torch.tensor(1e-40) * 1) == 0
    words = {
        "flushed": flushed,
        "pid": os.getpid(),
        "home": str(context.node_config["home"]),
        "job": str(context.run_config["job"]),
    }
    return Message(RecordDict({"said": ConfigRecord(words)}), reply_to=message)
