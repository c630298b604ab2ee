"""A study as people walk its way: drafted, published, shown, approved, amended, withdrawn, closed."""

import io
from datetime import date

import pytest

from fedhealth.cli.main import main
from fedhealth.consortium.research_study import sign_study
from fedhealth.lead.home import LeadHome
from fedhealth.lead.project import Project
from fedhealth.lead.provision import provision_consortium
from fedhealth.protocol.study_answer import StudyAnswer
from fedhealth.site.audit_log import count_events
from fedhealth.site.study_store import StudyStore
from fedhealth.utils.private_files import load_signing_key
from tests.clients.lying_lead import LyingLead
from tests.clients.studies import make_study


@pytest.fixture(name="command")
def command_(tmp_path, good_hospitals, monkeypatch, capfd):
    """Run a command of the lead or of the hospital; return exit code and what was shown."""
    lead = LyingLead(tmp_path, good_hospitals, study={"name": "first"})
    consortium = lead.consortium.lead
    (consortium.path / "project.yaml").write_text(
        "project: chest\nlead: lead.example:9092\ncontrol_port: 1\n"
    )  # nobody listens
    monkeypatch.setenv("FEDHEALTH_LEAD", str(consortium.path))
    monkeypatch.setenv("FEDHEALTH_HOME", str(lead.home.path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def run(*words, answer=""):
        monkeypatch.setattr("sys.argv", ["fedhealth", *words])
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capfd.readouterr()
        return stopped.value.code or 0, out + err

    run.__dict__["lead"] = lead
    return run


def complete(path):
    path.write_text(path.read_text().replace(': ""', ': "a text of the lead"'))


def test_the_whole_way(command, tmp_path):
    lead, draft = command.lead, tmp_path / "study.yaml"
    assert command("lead", "study", "new", "second", *lead.words)[0] == 0
    assert command("lead", "study", "new", "second", *lead.words)[0] == 2  # the file exists
    code, shown = command("lead", "study", "publish")
    assert code == 2
    assert "purpose: give one paragraph" in shown
    complete(draft)
    code, shown = command("lead", "study", "publish")
    assert (code, "second version 1" in shown, "second-v1.study.json" in shown) == (0, True, True)
    file = str(lead.consortium.lead.path / "studies" / "second-v1.study.json")

    code, shown = command("site", "study", "show", file, "--settings")
    assert code == 0
    for text in ("a text of the lead", "crp: a number", "training.batch_size = 8", "Here: not decided"):
        assert text in shown
    code, shown = command("site", "study", "approve", "second", answer="n\n")
    assert (code, "24 patients" in shown, "Not confirmed" in shown) == (8, True, True)
    code, shown = command("site", "study", "approve", "second", "--by", "Dr. Noor", answer="y\n")
    assert (code, "Approved by Dr. Noor" in shown) == (0, True)

    draft.write_text(draft.read_text().replace("runs: 1", "runs: 2"))
    code, shown = command("lead", "study", "publish")
    assert (code, "runs: 1 is now 2" in shown) == (0, True)
    code, shown = command("site", "study", "show", file.replace("v1", "v2"))
    assert (code, "Compared with second version 1:" in shown, "runs: 1 is now 2" in shown) == (0, True, True)
    code, shown = command("site", "study", "withdraw", "second", "--reason", "permit", "--note", "Dr. Noor left")
    assert (code, "The approval of second version 1 is withdrawn" in shown) == (0, True)
    assert command("site", "study", "decline", "second")[0] == 2  # the lead needs a reason
    code, shown = command("site", "study", "decline", "second", "--reason", "effort")
    assert (code, "second version 2 is declined here" in shown) == (0, True)
    assert command("lead", "study", "close", "second")[0] == 0
    code, shown = command("lead", "study", "status")
    assert (code, "second version 3" in shown, ": closed; 0 of 2 runs started" in shown) == (0, True, True)
    assert "charite: has not answered" in shown
    assert "Only the answers to runs are shown." in shown  # without the server
    command("site", "study", "show", file.replace("v1", "v3"))
    code, shown = command("site", "study", "show")
    assert "second version 3" in shown
    assert "closed by the lead" in shown
    assert "withdrawn by" in shown
    assert "a permit is missing or has ended, Dr. Noor left" in shown
    events = count_events(lead.home.audit)
    assert (events["study received"], events["study approved"], events["study withdrawn"]) == (4, 2, 1)


@pytest.mark.parametrize(
    ("answer", "why"),
    [("outdated", "the data have changed since"), ("suspended", "this machine was restored from a backup since")],
)
def test_an_approval_that_must_be_given_again_is_shown(command, answer, why):
    StudyStore(command.lead.home).end_approval(command.lead.study, StudyAnswer(answer))
    code, shown = command("site", "study", "show", "first")
    assert (code, f"approved by Dr. Noor on {date.today()}; {why}: approve it again" in shown) == (0, True)


def test_what_does_not_exist_or_is_not_the_consortiums_is_refused(command, tmp_path):
    assert command("site", "study", "show", "unknown")[0] == 2
    (tmp_path / "forged.json").write_text("{}")
    assert command("site", "study", "approve", "forged.json")[0] == 8
    other = LeadHome(tmp_path / "other")
    provision_consortium(other, Project("chest", "lead.example:9092"))
    complete_draft = tmp_path / "theirs.yaml"
    command("lead", "study", "new", "theirs", *command.lead.words, "--to", str(complete_draft))
    complete(complete_draft)
    assert command("lead", "study", "publish", str(complete_draft), "--home", str(other.path))[0] == 0
    code, shown = command("site", "study", "approve", str(other.studies / "theirs-v1.study.json"), "--yes", "0" * 12)
    assert (code, "not signed by the consortium" in shown) == (8, True)


def test_without_a_question_the_digest_of_what_was_shown_must_be_given(command):
    """A name alone may mean a version that came later than the one that somebody read."""
    lead = command.lead
    shown, later = lead.publish(name="second"), lead.publish(name="second", version=2, purpose="life insurance")
    store = StudyStore(lead.home)
    lead.set_limits("lifetime_epsilon: 100")
    for digest in ("", "0" * 12, shown.digest[:11], shown.digest, "second"):
        code, said = command("site", "study", "approve", "second", "--yes", digest)
        assert (code, f"second version 2 has the digest {later.digest}" in said) == (2, True)
        assert store.load_decision(later.digest) is None
    assert command("site", "study", "approve", shown.digest, "--yes", later.digest[:12])[0] == 2
    code, said = command("site", "study", "approve", shown.digest, "--yes", shown.digest[:12].upper())
    assert (code, "Approved by" in said) == (0, True)
    assert (store.load_decision(shown.digest).answer, store.load_decision(later.digest)) == ("approved", None)
    code, said = command("site", "study", "approve", "second", answer="n\n")
    assert (code, f"Approve second version 2, digest {later.digest[:12]}?" in said) == (8, True)


def test_a_study_that_is_shown_has_all_that_a_person_decides_on(command):
    code, said = command("site", "study", "show", "first")
    assert code == 0
    for text in (
        "hospitals  charite, member-01",
        "runs       1, each as below",
        "rounds     2 in each run",
        "protects   each patient (unit patient)",
        "one run    epsilon 8 at delta 1e-6",
        "noise      local",
        "sums       secure aggregation is on: the lead reads only sums over at least 3 of 4 hospitals",
        "collude with the lead",
        "leaves     each round the change of the model by its training, with noise",
        "budget     epsilon 8 at delta 1e-6 for each patient, all runs together",
        "dates      2026-01-01 to 2099-12-31",
        "released   the trained model",
    ):
        assert text in said
    code, said = command("site", "study", "approve", "first", answer="n\n")
    assert "one run costs here at most epsilon 7." in said
    assert "all 1 runs together cost here at most epsilon 7." in said


def test_another_content_of_a_version_and_a_study_that_is_set_aside_are_named(command, tmp_path):
    lead = command.lead
    twin = sign_study(
        make_study(lead.words, name="first", ethics="EK 99"), load_signing_key(lead.consortium.lead.consortium_key)
    )
    (tmp_path / "twin.study.json").write_bytes(twin.dumps())
    code, said = command("site", "study", "show", "twin.study.json")
    assert (code, "first version 1 is known here with other content" in said) == (8, True)
    path = lead.home.studies / f"{lead.study}.study.json"
    path.write_text(path.read_text().replace("2099-12-31", "31.12.2099"))
    code, said = command("site", "study", "show")
    assert (code, "REFUSED first version 1 is set aside" in said, "Ask the lead" in said) == (0, True, True)
    assert command("site", "study", "show", "first")[0] == 8
    code, said = command("site", "study", "withdraw", "first", "--reason", "other")
    assert (code, "The approval of first version 1 is withdrawn" in said) == (0, True)
