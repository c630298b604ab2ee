"""Flower's own SecAgg+, driven stage by stage through its own functions, without a network."""

import importlib
import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common import bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_addition, parameters_mod
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.server.workflow.secure_aggregation import secaggplus_workflow as flower_lead
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, no_object_id_recompute
from flwr.supercore.task_identity import TaskIdentity

from benchmarks.timing import measure_cpu_seconds

# The package exports a function under the module's name.
flower_site = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
CLIP = 0.1
logging.getLogger("flwr").setLevel(logging.CRITICAL)


class FlowerFleet:
    """n sites and a lead made of Flower's own stage functions."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.states = {i: flower_site.SecAggPlusState() for i in range(1, n + 1)}
        setup = {
            Key.SAMPLE_NUMBER: n,
            Key.SHARE_NUMBER: n,
            Key.THRESHOLD: n - 2,
            Key.CLIPPING_RANGE: CLIP,
            Key.TARGET_RANGE: 2**22,
            Key.MOD_RANGE: 2**32,
            Key.MAX_WEIGHT: 1.0,
        }
        public = {}
        for i, state in self.states.items():
            state.nid = i
            public[i] = flower_site._setup(state, ConfigRecord(dict(setup)))
        self.keys = {i: [keys[Key.PUBLIC_KEY_1], keys[Key.PUBLIC_KEY_2]] for i, keys in public.items()}
        self.inbox: dict[int, dict[str, list[Any]]] = {
            i: {Key.SOURCE_LIST: [], Key.CIPHERTEXT_LIST: []} for i in self.states
        }
        for i in self.states:
            sent = self.share_keys(i)
            for j, envelope in zip(sent[Key.DESTINATION_LIST], sent[Key.CIPHERTEXT_LIST], strict=True):
                self.inbox[j][Key.SOURCE_LIST].append(i)
                self.inbox[j][Key.CIPHERTEXT_LIST].append(envelope)
        for i in self.states:  # a site opens its envelopes while it masks
            self.protect(i, np.zeros(1, np.float32))

    def share_keys(self, i: int) -> dict[str, Any]:
        """Return the shares of site i's secrets, sealed for every other site."""
        found: dict[str, Any] = flower_site._share_keys(self.states[i], {str(j): key for j, key in self.keys.items()})
        return found

    def build_upload(self, i: int, values: np.ndarray) -> dict[str, bytes]:
        """Do all that site i does from its update to the objects that Flower pushes; return them by their hashes.

        The shares, which a site of Flower's sends in a message before, are made anew: none of this fleet's sums can be
        opened afterwards.
        """
        shares = RecordDict({RECORD_KEY_CONFIGS: ConfigRecord(self.share_keys(i), False)})
        masked = RecordDict({RECORD_KEY_CONFIGS: ConfigRecord({Key.MASKED_PARAMETERS: self.protect(i, values)}, False)})
        objects = dict[str, bytes]()
        for content in (shares, masked):
            message = Message(content, i, "train")
            with no_object_id_recompute():
                get_object_tree(message)
                objects |= {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
        return objects

    def protect(self, i: int, values: np.ndarray) -> list[bytes]:
        """Quantise, mask and encode at site i; leaves out the model's own decoding."""
        parameters = ndarrays_to_parameters([values])
        done = flower_site._collect_masked_vectors(self.states[i], self.inbox[i], 1, parameters)
        return done[Key.MASKED_PARAMETERS]

    def unmask_inputs(self, vectors: list[Any], alive: list[int]) -> tuple[Any, Any, Any]:
        """Return the workflow's arguments after the survivors' vectors were summed."""
        dead = [i for i in self.states if i not in alive]
        replies = []
        for i in alive:
            asked = {Key.ACTIVE_NODE_ID_LIST: alive, Key.DEAD_NODE_ID_LIST: dead}
            record = flower_site._unmask(self.states[i], asked)
            content = SimpleNamespace(config_records={RECORD_KEY_CONFIGS: record})
            replies.append(
                SimpleNamespace(content=content, metadata=SimpleNamespace(src_node_id=i), has_error=lambda: False)
            )
        grid = SimpleNamespace(send_and_receive=lambda messages, timeout: replies)
        context = SimpleNamespace(
            state=SimpleNamespace(config_records={MAIN_CONFIGS_RECORD: {WorkflowKey.CURRENT_ROUND: 1}}),
            strategy=SimpleNamespace(aggregate_fit=lambda *_: (None, {})),
        )
        state = flower_lead.WorkflowState(
            sampled_node_ids=set(self.states),
            active_node_ids=set(alive),
            num_shares=self.n,
            threshold=self.n - 2,
            clipping_range=CLIP,
            quantization_range=2**22,
            mod_range=2**32,
            max_weight=1.0,
            nid_to_neighbours={i: set(self.states) for i in self.states},
            nid_to_publickeys=self.keys,
            aggregate_ndarrays=vectors,
        )
        return grid, context, state


def flower_unmask(fleet: FlowerFleet, total: list[Any], dropped: int, repeats: int) -> float:
    """Time the workflow's own unmask stage."""
    alive = list(fleet.states)[: fleet.n - dropped]
    workflow = flower_lead.SecAggPlusWorkflow(fleet.n, fleet.n - 2, clipping_range=CLIP)
    times = []
    for _ in range(repeats):
        arguments = fleet.unmask_inputs([part.copy() for part in total], alive)
        times.append(measure_cpu_seconds(lambda: workflow.unmask_stage(*arguments), 1))  # noqa: B023 - called at once
    return min(times)


def measure_flower(n: int, values: np.ndarray, repeats: int) -> dict[str, float]:
    """Time Flower's whole upload, protect and unmask on one site's update, with n sites.

    Returns:
        processor seconds, and the bytes of the upload.

    """
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    sender = FlowerFleet(n)
    found = {"whole_upload": measure_cpu_seconds(lambda: sender.build_upload(1, values), repeats)}
    found["upload"] = float(sum(map(len, sender.build_upload(1, values).values())))
    fleet = FlowerFleet(n)
    found["protect"] = measure_cpu_seconds(lambda: fleet.protect(1, values), repeats)
    total = [bytes_to_ndarray(part) for part in fleet.protect(1, values)]
    # The time to unmask does not depend on the values: one site's vector stands for the sum.
    total = parameters_mod(parameters_addition(total, total), 2**32)
    for dropped in (0, 2):
        found[f"unmask_{dropped}"] = flower_unmask(fleet, total, dropped, repeats)
    return found
