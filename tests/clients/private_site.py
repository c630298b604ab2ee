"""One virtual site with differential privacy, to which a test sends what any lead could send."""

from flwr.app import Message, RecordDict

from clients.app import get_job_cache, handle_message
from fedhealth.config.compose import compose_config, compute_config_digest
from fedhealth.flower.in_process_grid import InProcessGrid
from fedhealth.privacy.accounting.booking import find_bookings
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.protocol.array_codec import pack_arrays
from fedhealth.protocol.job import Job, compose_job_config
from fedhealth.protocol.messages import DIRECTIVE, EVALUATE, GLOBAL, TRAIN, Directive, compute_message_size
from strategies.app import build_initial_state

PRIVATE = ["privacy=patient", "privacy.epsilon=8", "privacy.min_cohort=2", "data.name=tiny"]


class PrivateSite:
    """The site `north`; its ledger and files are below `folder`."""

    def __init__(self, folder, overrides, *more):
        overrides = [*overrides, "data.sites=[north]", *PRIVATE, *more]
        self.job = Job("run", tuple(overrides), compute_config_digest(compose_config(overrides)), str(folder))
        self.folder = folder / "sites" / "north"
        config = compose_job_config(self.job)
        self.state, self.rounds = build_initial_state(config), config.strategy.rounds
        self.exchange = 0
        self._context = InProcessGrid(None, ["north"], {})._contexts[1]

    def send(self, kind, number, change=0.0, run="run", missed=(), exchange=None, state=None):
        """Send one request in a new exchange and return the reply; `change` makes another incoming model."""
        self.exchange += 1
        directive = Directive(run, self.job.digest, number, exchange or self.exchange, 0, ("north",), missed)
        arrays = {name: array + type(array.flat[0])(change) for name, array in (state or self.state).items()}
        content = RecordDict({DIRECTIVE: directive.record(), GLOBAL: pack_arrays(arrays)})
        message = Message(content, 1, kind)
        message.metadata.__dict__["_message_id"] = "1"
        return handle_message(message, self._context, self.job)

    def train(self, number=1, change=0.0, **about):
        return self.send(TRAIN, number, change, **about)

    def evaluate(self, change=0.0):
        return self.send(EVALUATE, self.rounds, change)

    def restart(self):
        """Forget everything that is not on the disk, as a new process does."""
        get_job_cache.cache_clear()

    @property
    def entries(self):
        path = get_ledger_path(self.folder, "tiny")
        return verify_ledger(path) if path.exists() else ()

    def bookings(self, purpose="train", run="run"):
        return find_bookings(self.entries, run, purpose)

    def states(self, **about):
        return [booking.state for booking in self.bookings(**about)]


def describe_reply(reply):
    """Return all that a lead can read from a reply whose values are noise: kind, schema and size."""
    if reply.has_error():
        return (reply.error.code, reply.error.reason)
    return (
        *sorted((name, type(record).__name__) for name, record in reply.content.items()),
        compute_message_size(reply),
    )
