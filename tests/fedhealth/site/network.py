"""The lead's server as a runner sees it, in memory: scripted messages in, answers kept."""

import threading
from collections import deque
from contextlib import contextmanager
from types import SimpleNamespace

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.proto.message_pb2 import ObjectTree

from fedhealth.errors import FederationError
from fedhealth.flower.app_bundle import build_bundle
from fedhealth.flower.client.fleet_client import PulledMessage
from fedhealth.flower.client.http_client import RequestRefusedError
from fedhealth.flower.client.message_codec import encode_message
from fedhealth.flower.compat import set_task_identity
from fedhealth.lead.sign_job import sign_job


class Network:
    """Stands in for the connection; everything behind it (runner, worker, trust) is real."""

    node_id = 1

    def __init__(self, lead):
        self.lead, self.runs, self.waiting = lead, {}, deque()
        self.names, self.parcels, self.answers, self.confirmed, self.faults = {}, {}, {}, [], deque()
        self.connections, self.over, self.seconds = 0, set(), {}
        self.news = threading.Condition()

    @contextmanager
    def connected(self, address, ca, key, describe_site, proxy):
        self.connections += 1
        yield self

    def start_job(self, run, number, signer=None, fab=None, hours=1.0):
        """Start one of Flower's runs with a job signed by the lead."""
        job, signature = sign_job(signer or self.lead, run, ["seed=1"], "0" * 64, fab or build_bundle().digest, hours)
        self.start(number, job, signature, fab)

    def start(self, number, job, signature, fab=None):
        self.runs[number] = SimpleNamespace(
            run_id=number,
            bundle_digest=fab or build_bundle().digest,
            config={"job": job, "signature": signature},
        )

    def ask(self, number, kind, name):
        """Let a message wait."""
        set_task_identity(number, 99)
        message = Message(RecordDict({"about": ConfigRecord({"name": name})}), self.node_id, kind)
        parcel = encode_message(message)
        task = PulledMessage(
            number, parcel.header, ObjectTree.FromString(parcel.tree), message.metadata.message_id, kind
        )
        self.parcels[task.message_id], self.names[task.message_id] = parcel, name
        self.waiting.append(task)

    def request(self, name):
        """Return the message of that name."""
        return next(self.parcels[each].decode() for each, known in self.names.items() if known == name)

    def pull_message(self):
        return self.waiting.popleft() if self.waiting else None

    def get_run(self, number):
        if number in self.over:
            raise RequestRefusedError("the run is not running")
        return self.runs[number]

    def confirm_message(self, task):
        self.confirmed.append(self.names[task.message_id])

    def pull_content(self, task, most):
        parcel = self.parcels[task.message_id]
        if sum(map(len, parcel.objects.values())) > most:
            raise FederationError("A message is larger than allowed.")
        return parcel

    def push_reply(self, run, parcel, seconds):
        if self.faults:
            raise self.faults.popleft()
        with self.news:
            message = parcel.decode()
            name = self.names[message.metadata.reply_to_message_id]
            self.answers[name], self.seconds[name] = message, seconds
            self.news.notify_all()

    def answer(self, name, seconds=60.0):
        """Wait for the answer to a message."""
        with self.news:
            assert self.news.wait_for(lambda: name in self.answers, seconds), f"no answer to {name}"
        return self.answers[name]
