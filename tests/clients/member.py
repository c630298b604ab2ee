"""A hospital that is a member of a consortium, and how a message reaches its application."""

from flwr.app import Context, Message, RecordDict

from clients.app import handle_message
from fedhealth.config.override_allowlist import select_shared_overrides
from fedhealth.consortium.identity import save_roster
from fedhealth.flower.compat import set_task_identity
from fedhealth.protocol.messages import DIRECTIVE, Directive
from tests.fedhealth.site.trust import Consortium

POLICY = """\
name: charite
lead: lead.example:9092
data:
  tiny: {{dataset: tiny-2026, root: {root}, manifest: manifest.csv, cache: {cache}}}
limits:
  unattended_studies: true
  units: [{unit}]
  secure_aggregation: false
  records: [acceptance, update, statistics]
  min_patients: {min_patients}
"""


class Member:
    """A member's home with a kit, and the overrides of a job on its data; it has no policy yet."""

    def __init__(self, tmp_path, data, overrides):
        consortium = Consortium(tmp_path / "consortium")
        self.home = consortium.homes["charite"]
        self.home.kit.mkdir(exist_ok=True)
        self.home.membership.write_bytes(consortium.lead.membership.read_bytes())
        save_roster(self.home.state, {m.site: m.identity for m in consortium.membership().members})
        self.root, self.cache = data, tmp_path / "cache"
        own = ("data.site_column", "data.name", "data.sites")
        self.overrides = [each for each in select_shared_overrides(overrides) if each.partition("=")[0] not in own]
        self.overrides += ["data.name=tiny", "data.sites=[charite,klinikum,st-brigid]"]

    def write_policy(self, unit="none", min_patients=3):
        """Write a policy that lets plain updates leave, under one privacy unit."""
        shown = {"root": self.root / "north", "cache": self.cache}
        self.home.policy.write_text(POLICY.format(**shown, unit=unit, min_patients=min_patients))

    def send(self, job, kind, run, number=0, content=None):
        """Send one message as the runner does and return the reply."""
        set_task_identity(1, 1)
        context = Context(1, 1, {"home": str(self.home.path)}, RecordDict(), {"job": job.dumps()})
        directive = Directive(run, job.digest, number, max(number, 1), 0, ("charite",)).record()
        message = Message(RecordDict({DIRECTIVE: directive, **(content or {})}), 1, kind)
        message.metadata.__dict__["_message_id"] = "1"
        return handle_message(message, context)
