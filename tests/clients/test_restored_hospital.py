"""A hospital whose folder is restored from an older copy declines, and goes on after `fedhealth site recover`."""

import shutil
import time

import pytest
from flwr.app import ConfigRecord
from omegaconf import OmegaConf
from typer.testing import CliRunner

from clients.app import get_job_cache
from fedhealth.cli.main import app
from fedhealth.config.compose import compose_config, compute_config_digest
from fedhealth.consortium.identity import make_identity, save_roster
from fedhealth.consortium.membership import SignedMembership
from fedhealth.consortium.signed_job import SignedJob
from fedhealth.errors import FedhealthError
from fedhealth.privacy.accounting.accountant import PrivacyEvent, compute_epsilon
from fedhealth.privacy.accounting.ledger import Ledger, read_ledger_digest, verify_ledger
from fedhealth.privacy.accounting.ledger_entry import compute_spent_epsilon, get_patient_events
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path, get_score_release_path
from fedhealth.privacy.accounting.ledger_recovery import IN_FLIGHT, LOST
from fedhealth.privacy.accounting.limits import EpsilonLimits
from fedhealth.protocol.array_codec import pack_arrays
from fedhealth.protocol.messages import GLOBAL, HANDSHAKE, STATEMENT, TRAIN, Acceptance
from fedhealth.secagg.client.statement_book import RESTORED
from fedhealth.site.audit_log import verify_log
from fedhealth.site.decline_reasons import UNLISTED_REASON
from fedhealth.utils.hash_chain import get_head_path
from strategies.app import build_initial_state
from tests.clients.hospitals import FOUR, VICTIM, Hospitals, Lead, four_hospitals_
from tests.clients.member import Member

__all__ = ["four_hospitals_"]

DELTA = 1e-6
PRIVATE = ["privacy=patient", "privacy.epsilon=8", "privacy.min_cohort=2", "strategy.rounds=4"]


class Hospital(Member):
    """One hospital in a private run without secure aggregation; an honest lead carries its statements."""

    def __init__(self, folder, data, overrides):
        super().__init__(folder, data, [each for each in overrides if "strategy.rounds" not in each] + PRIVATE)
        self.config = compose_config([*self.overrides, f"data.root={data}"])
        self.arrays = build_initial_state(OmegaConf.to_object(self.config))
        self.write_policy("patient")
        self.carried, self.left, self.steps = [], [], 0
        self.job = self.make_job("run12345")

    def make_job(self, run, *changes):
        """Return the lead's order of a run; changes replace overrides."""
        keys = {change.partition("=")[0] for change in changes}
        words = (*(word for word in self.overrides if word.partition("=")[0] not in keys), *changes)
        digest = compute_config_digest(compose_config([*words, f"data.root={self.root}"]))
        now = int(time.time())
        return SignedJob("chest", run, words, digest, "0" * 64, "0" * 64, now, now + 600, "0" * 32)

    def ask(self, kind, number=0, content=None, carry=True):
        get_job_cache.cache_clear()
        shown = {STATEMENT: ConfigRecord({"statements": self.carried[-1:]})} if carry and self.carried else {}
        reply = self.send(self.job, kind, self.job.run, number, {**(content or {}), **shown})
        if reply.has_content() and STATEMENT in reply.content:
            self.carried.append(bytes(reply.content[STATEMENT]["statement"]))
        return reply

    def train(self, number, **about):
        reply = self.ask(TRAIN, number, {GLOBAL: pack_arrays(self.arrays)}, **about)
        if reply.has_content():
            self.left.append(number)
        return reply

    def sends_nothing(self):
        """Ask for a round; without its books a hospital sends at most the kind of its error."""
        try:
            return not self.train(3).has_content()
        except FedhealthError:  # not even that
            return True

    def join(self, **about):
        return Acceptance.parse(self.ask(HANDSHAKE, **about).content)

    def recover(self):
        result = CliRunner().invoke(app, ["site", "recover", "--yes", "--home", str(self.home.path)])
        assert result.exit_code == 0, result.output
        return result.output

    @property
    def ledger(self):
        return get_ledger_path(self.home.state, "tiny-2026")

    @property
    def parts(self):
        """What a backup may hold, by name."""
        home, head = self.home, get_head_path
        return {
            "whole home": [home.path],
            "ledger only": [self.ledger, head(self.ledger)],
            "audit log only": [home.audit, head(home.audit)],
            "state only": [home.state],
        }

    def spent(self):
        """Return the ledger's epsilon, and the least that the words which left have cost."""
        entries = verify_ledger(self.ledger)
        event = next(entry.mechanism for entry in entries if entry.kind in ("book", "lost"))
        one_round = type(event)(event.noise_multiplier, event.sample_rate, self.steps)
        return compute_spent_epsilon(entries, DELTA), compute_epsilon([one_round] * len(self.left), DELTA)


def find_last_statement(hospital):
    """Return the file beside the audit log."""
    return hospital.home.audit.with_name("last-statement")


def copy_parts(paths, to, back=False):
    for number, path in enumerate(paths):
        source, target = (to / str(number), path) if back else (path, to / str(number))
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


@pytest.fixture(name="hospital")
def hospital_(tmp_path, good_hospitals, tiny_overrides):
    made = Hospital(tmp_path, good_hospitals, tiny_overrides(good_hospitals))
    assert made.join().reasons == ()
    assert made.train(1).has_content()
    made.steps = next(entry.event.steps for entry in verify_ledger(made.ledger))
    return made


@pytest.mark.parametrize("part", ["whole home", "ledger only", "audit log only", "state only"])
def test_an_older_copy_is_noticed_declined_and_recovered(hospital, tmp_path, part):
    (tmp_path / "backup").mkdir()
    copy_parts(hospital.parts[part], tmp_path / "backup")
    for number in (2, 3):
        assert hospital.train(number).has_content()
    copy_parts(hospital.parts[part], tmp_path / "backup", back=True)

    booked = len(verify_ledger(hospital.ledger))
    assert hospital.train(4).error.reason == "RequestMismatchError"
    assert hospital.join().reasons == (UNLISTED_REASON,)  # neutral to the lead
    assert hospital.train(4, carry=False).error.reason == "RequestMismatchError"  # and it does not forget
    assert len(verify_ledger(hospital.ledger)) == booked
    declined = [entry for entry in verify_log(hospital.home.audit) if entry["event"] == "run declined"]
    assert declined[-1]["reasons"] == [f"{RESTORED}; run `fedhealth site recover`"]  # one clear sentence to its own

    hospital.recover()
    said, truth = hospital.spent()
    assert said >= truth * 0.999
    assert hospital.join().reasons == ()
    assert hospital.train(4).has_content()
    said, truth = hospital.spent()
    assert said >= truth * 0.999
    assert "recovered" in [entry["event"] for entry in verify_log(hospital.home.audit)]


def test_after_a_recovery_kept_statistics_are_drawn_anew(hospital, tmp_path):
    """The kept draw may be in opened sums whose contributors the older copy does not know."""
    kept = get_score_release_path(hospital.home.state, hospital.job.run)
    kept.write_bytes(b"drawn before the backup")
    (tmp_path / "backup").mkdir()
    copy_parts(hospital.parts["whole home"], tmp_path / "backup")
    assert hospital.train(2).has_content()
    copy_parts(hospital.parts["whole home"], tmp_path / "backup", back=True)
    assert not hospital.train(3).has_content()
    hospital.recover()
    assert not kept.exists()


def test_the_backup_of_the_guide_is_enough(hospital, tmp_path):
    """Policy, keys, kit, audit log and ledgers: the books of statements are not in it, the audit log knows better."""
    home = hospital.home
    saved = [home.policy, home.keys, home.kit, home.audit.parent, home.state / "privacy"]
    (tmp_path / "backup").mkdir()
    copy_parts(saved, tmp_path / "backup")
    for number in (2, 3):
        hospital.train(number)
    shutil.rmtree(home.path)
    copy_parts(saved, tmp_path / "backup", back=True)
    roster = SignedMembership.loads(home.membership.read_bytes()).membership.roster
    save_roster(home.state, roster.keys)  # as `site install` does
    assert hospital.join(carry=False).reasons == (UNLISTED_REASON,)  # noticed without a word from others
    assert hospital.join().reasons == (UNLISTED_REASON,)
    status = CliRunner().invoke(app, ["site", "status", "--home", str(home.path)]).output
    assert RESTORED in status.replace("\n", " ")
    hospital.recover()
    said, truth = hospital.spent()
    assert said >= truth * 0.999
    assert hospital.join().reasons == ()
    assert hospital.train(4).has_content()


def test_what_the_members_show_gets_the_one_refusal_and_spends_nothing(four_hospitals, tmp_path):
    """The lead withholds the statements: the members' announcements show the newest one, with the order to train."""
    hospitals = Hospitals(tmp_path, four_hospitals, "units: [none], word_embeddings: true")
    lead = Lead(hospitals, "run12345", "privacy=none", "secagg=on", "training=sgd").join()
    home = hospitals.homes[VICTIM]
    (tmp_path / "backup").mkdir()
    copy_parts([home.path], tmp_path / "backup")
    lead.ask(TRAIN, FOUR)
    lead.open()
    copy_parts([home.path], tmp_path / "backup", back=True)
    lead.restart_hospitals()
    lead.join()
    with Ledger.open(get_ledger_path(home.state, "tiny-2026")) as ledger:  # of this run, and open
        ledger.book(lead.run, 1, "patient", PrivacyEvent(2.0, 1.0, 1), EpsilonLimits(DELTA))
        booked = ledger.entries
    lead.ask(TRAIN, FOUR)
    assert lead.refusals == [(TRAIN, VICTIM, "RequestMismatchError")]
    assert verify_ledger(get_ledger_path(home.state, "tiny-2026")) == booked


def test_between_runs_too(hospital, tmp_path):
    """The backup is of the time before the next run; the lead asks for that run again."""
    (tmp_path / "backup").mkdir()
    for number in (2, 3, 4):
        hospital.train(number)
    copy_parts([hospital.home.path], tmp_path / "backup")
    first, hospital.job = hospital.job, SignedJob(**{**vars(hospital.job), "run": "run67890"})
    assert hospital.send(hospital.job, HANDSHAKE, "run67890").has_content()
    reply = hospital.send(hospital.job, TRAIN, "run67890", 1, {GLOBAL: pack_arrays(hospital.arrays)})
    hospital.carried.append(bytes(reply.content[STATEMENT]["statement"]))
    hospital.left.append(1)
    copy_parts([hospital.home.path], tmp_path / "backup", back=True)
    hospital.job = first
    assert hospital.join().reasons == (UNLISTED_REASON,)
    assert "run67890" in hospital.recover()
    said, truth = hospital.spent()
    assert said >= truth * 0.999
    lost = [entry for entry in verify_ledger(hospital.ledger) if entry.kind == "lost"]
    assert {entry.run for entry in lost if entry.reason.startswith(LOST)} == {"run67890"}
    assert {entry.run for entry in lost if entry.reason.startswith(IN_FLIGHT)} == {"run12345", "run67890"}


@pytest.mark.parametrize("damage", ["ledger cut", "ledger edited", "ledger head older", "audit log cut", "ledger gone"])
def test_damaged_books_are_recovered(hospital, damage):
    heads = {path: get_head_path(path).read_bytes() for path in (hospital.ledger, hospital.home.audit)}
    hospital.train(2)
    path = hospital.home.audit if damage.startswith("audit") else hospital.ledger
    content = path.read_bytes()
    if damage.endswith("cut"):
        path.write_bytes(b"".join(content.splitlines(keepends=True)[:-2]))
    elif damage.endswith("gone"):
        path.unlink()
    elif damage.endswith("edited"):
        path.write_bytes(content.replace(b'"round":2', b'"round":3'))
    else:
        get_head_path(path).write_bytes(heads[path])
    assert hospital.sends_nothing()
    hospital.recover()
    said, truth = hospital.spent()
    assert said >= truth * 0.999
    assert hospital.join().reasons == ()
    assert hospital.train(3).has_content()
    said, truth = hospital.spent()
    assert said >= truth * 0.999


def test_a_ledger_that_nobody_can_vouch_for_counts_as_used_up(hospital):
    """Neither the book nor anybody else knows what was lost."""
    shutil.rmtree(hospital.home.state / "statements")
    find_last_statement(hospital).unlink()
    hospital.ledger.write_bytes(hospital.ledger.read_bytes()[10:])
    assert "whole life budget" in hospital.recover()
    assert compute_epsilon(get_patient_events(verify_ledger(hospital.ledger)), DELTA) >= 19.9
    assert hospital.join().reasons


@pytest.mark.parametrize("ledger", ["older", "gone"])
def test_a_record_that_another_key_has_sealed_uses_up_every_budget(hospital, tmp_path, ledger):
    """The chain of the restored ledger is intact, so nothing else would show that bookings are missing."""
    (tmp_path / "backup").mkdir()
    copy_parts([hospital.home.path], tmp_path / "backup")
    for number in (2, 3):
        assert hospital.train(number).has_content()
    copy_parts([hospital.home.path], tmp_path / "backup", back=True)
    if ledger == "gone":
        shutil.rmtree(hospital.ledger.parent)
    assert hospital.join().reasons == (UNLISTED_REASON,)
    (hospital.home.keys / "identity.key").unlink()
    make_identity(hospital.home.keys)
    said = hospital.recover().replace("\n", " ")
    assert "another identity key" in said
    assert "whole life budget counts as spent" in said
    assert compute_epsilon(get_patient_events(verify_ledger(hospital.ledger)), DELTA) >= 19.9
    entries = verify_ledger(hospital.ledger)
    hospital.recover()
    assert verify_ledger(hospital.ledger) == entries


@pytest.mark.parametrize("part", ["whole home", "state only"])
def test_recover_before_anybody_has_shown_the_newest_statement(hospital, tmp_path, part):
    """Against the order of the guide. With an intact audit log the hospital itself knows better than its books."""
    (tmp_path / "backup").mkdir()
    copy_parts(hospital.parts[part], tmp_path / "backup")
    for number in (2, 3, 4):
        assert hospital.train(number).has_content()
    copy_parts(hospital.parts[part], tmp_path / "backup", back=True)
    newest = hospital.carried[-1]
    hospital.join(carry=False)
    hospital.recover()
    hospital.carried = [newest]
    if hospital.join().reasons:  # noticed again: then what it records is booked now
        hospital.recover()
        assert hospital.join().reasons == ()
    said, truth = hospital.spent()
    assert said >= truth * 0.999
    assert all("used up" not in entry.reason for entry in verify_ledger(hospital.ledger))


def test_an_audit_log_that_names_more_than_anybody_shows_uses_up_the_budget(hospital, tmp_path):
    """Only the lines of the audit log are left: what they name was booked, and nobody knows how much it was."""
    (tmp_path / "backup").mkdir()
    copy_parts(hospital.parts["state only"], tmp_path / "backup")
    for number in (2, 3):
        assert hospital.train(number).has_content()
    copy_parts(hospital.parts["state only"], tmp_path / "backup", back=True)
    find_last_statement(hospital).write_bytes(b"damaged")
    assert hospital.join(carry=False).reasons == (UNLISTED_REASON,)
    said = " ".join(hospital.recover().split())
    assert "The audit log knows of later bookings on tiny-2026" in said
    assert compute_epsilon(get_patient_events(verify_ledger(hospital.ledger)), DELTA) >= 19.9


@pytest.mark.parametrize("again", ["ledger only", "state only"])
def test_what_a_recovery_has_booked_is_not_lost_with_an_older_copy(hospital, tmp_path, again):
    """The same backup is restored a second time, in part, at once after the recovery; the lead shows nothing."""
    for name in ("whole", "part"):
        (tmp_path / name).mkdir()
    copy_parts(hospital.parts["whole home"], tmp_path / "whole")
    copy_parts(hospital.parts[again], tmp_path / "part")
    for number in (2, 3):
        assert hospital.train(number).has_content()
    copy_parts(hospital.parts["whole home"], tmp_path / "whole", back=True)
    assert hospital.join().reasons == (UNLISTED_REASON,)
    hospital.recover()
    copy_parts(hospital.parts[again], tmp_path / "part", back=True)
    assert hospital.join(carry=False).reasons == (UNLISTED_REASON,)
    hospital.recover()
    said, truth = hospital.spent()
    assert said >= truth * 0.999
    assert hospital.join().reasons == ()


def test_a_request_of_every_open_run_may_have_been_on_its_way(hospital, tmp_path):
    """The last reply of a run reached nobody's disk; before it, another run had shaken hands with a statement."""
    (tmp_path / "backup").mkdir()
    copy_parts(hospital.parts["whole home"], tmp_path / "backup")
    first = hospital.job
    hospital.job = hospital.make_job("run67890", "privacy.epsilon=1")
    assert hospital.join().reasons == ()
    hospital.job, known = first, list(hospital.carried)
    assert hospital.train(2).has_content()
    hospital.carried = known
    copy_parts(hospital.parts["whole home"], tmp_path / "backup", back=True)
    assert hospital.join().reasons == (UNLISTED_REASON,)
    hospital.recover()
    entries = [entry for entry in verify_ledger(hospital.ledger) if entry.run == first.run]
    lost: list[int] = [entry.event.steps for entry in entries if entry.kind == "lost"]
    assert sum(lost) >= hospital.steps
    own = compute_spent_epsilon(entries, DELTA, first.run)
    assert own >= hospital.spent()[1] * 0.999


def test_a_run_that_a_recovery_ends_is_logged_once_as_ended_by_it(hospital, tmp_path):
    (tmp_path / "backup").mkdir()
    copy_parts(hospital.parts["whole home"], tmp_path / "backup")
    assert hospital.train(2).has_content()
    copy_parts(hospital.parts["whole home"], tmp_path / "backup", back=True)
    for _ in range(2):
        (hospital.home.state / "secagg" / "otherrun").mkdir(parents=True, exist_ok=True)
        hospital.recover()
    ended = [entry for entry in verify_log(hospital.home.audit) if entry["event"] == "ended"]
    assert [(entry["run"], entry["by"]) for entry in ended] == [("otherrun", "recovery")]


def test_recovering_twice_books_nothing_twice(hospital, tmp_path):
    (tmp_path / "backup").mkdir()
    copy_parts([hospital.home.path], tmp_path / "backup")
    hospital.train(2)
    copy_parts([hospital.home.path], tmp_path / "backup", back=True)
    hospital.join()
    hospital.recover()
    entries = verify_ledger(hospital.ledger)
    hospital.recover()
    assert verify_ledger(hospital.ledger) == entries


def test_recover_asks_first(hospital):
    before = hospital.ledger.read_bytes()
    result = CliRunner().invoke(app, ["site", "recover", "--home", str(hospital.home.path)], input="n\n")
    assert result.exit_code
    assert hospital.ledger.read_bytes() == before


def test_the_audit_log_shows_afterwards_what_was_asked(hospital):
    entries = verify_log(hospital.home.audit)
    asked = [entry for entry in entries if entry["event"] == "asked"]
    assert [(entry["kind"], entry["round"]) for entry in asked] == [(HANDSHAKE, 0), (TRAIN, 1)]
    assert asked[1]["cohort"] == ["charite"]
    assert len(asked[1]["model"]) == 64
    heads = [entry["ledgers"] for entry in entries if entry["event"] == "statement"]
    assert heads[-1] == {"tiny-2026": read_ledger_digest(hospital.ledger)}
    assert "patient" not in hospital.home.audit.read_text().replace("patient_", "")
