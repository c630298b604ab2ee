"""A site's own data: read as a job would read them, and one training step tried; nothing booked, nothing left."""

import pytest

from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_folder import find_ledgers
from fedhealth.site import audit_log
from fedhealth.site.check.base import CheckStatus, catch_errors
from fedhealth.site.check.data import check_data
from fedhealth.site.check.trial import check_run
from fedhealth.site.policy import load_policy
from tests.fedhealth.site.consortium import LEAD, SITES, World

POLICY = """\
name: charite
lead: {lead}
conf: {root}/conf
data:
  {name}: {{dataset: ward, root: {root}/north, cache: {root}/cache{more}}}
limits: {{min_patients: {least}}}
"""
DATA = """\
defaults: [demo, _self_]
name: chest
image: {size: 16}
tabular: {crp: {center: 50, scale: 50}, ldh: {center: 300, scale: 120}}
"""
MODEL = (
    "data=chest",
    "model.dim=8",
    "model/text=words",
    "model.text.hidden=16",
    "model.text.buckets=64",
    "training.local_steps=2",
    "training.batch_size=8",
    "strategy.rounds=2",
    "privacy=patient",
    f"data.sites=[{','.join(SITES)}]",
)
DROPPED = tuple(f"~data.tabular.{name}" for name in ("age", "sex", "lymphocytes", "spo2"))


@pytest.fixture(name="world")
def world_(tmp_path, hospitals):
    (hospitals / "conf" / "data").mkdir(parents=True)
    (hospitals / "conf" / "data" / "chest.yaml").write_text(DATA)
    world = World(tmp_path / "world")
    world.install("charite")
    return world


@pytest.fixture(name="rules")
def rules_(world, hospitals):
    """`rules(...)`: write site.yaml; return home and policy."""

    def write(name="chest", more="", least=10):
        home = world.homes["charite"]
        home.policy.write_text(POLICY.format(lead=LEAD, root=hospitals, name=name, more=more, least=least))
        return home, load_policy(home)

    return write


def only(checks):
    [check] = checks
    return check


def run(rules, *overrides, **settings):
    home, policy = rules(**settings)
    return home, {
        check.name: check for check in catch_errors("run", check_run(home, policy, (*MODEL, *DROPPED, *overrides)))
    }


def test_a_described_source_is_read_whole(rules, hospitals):
    manifest = hospitals / "north" / "manifest.csv"
    head, *rows = manifest.read_text().splitlines()
    manifest.write_text("\n".join([f"{head},age,sex,lymphocytes,spo2", *(f"{row},60,F,1.2,95" for row in rows)]) + "\n")
    size, *findings = check_data(rules()[1])
    assert size.status == CheckStatus.PASS
    assert "24 patients, 24 rows, 24 image" in size.finding
    assert any("same value in every row" in each.finding for each in findings)
    assert {each.status for each in findings} == {CheckStatus.WARN}


def test_a_fault_of_the_files_is_named(rules, hospitals):
    found = only(check_data(rules()[1]))
    assert found.status == CheckStatus.FAIL
    assert "missing column 'age'" in found.finding
    (hospitals / "north" / "manifest.csv").unlink()
    assert "the manifest does not exist" in only(check_data(rules()[1])).finding


def test_a_source_without_a_description_is_read_as_a_table(rules):
    found = only(check_data(rules(name="unknown")[1]))
    assert found.status == CheckStatus.WARN
    assert "24 rows, 7 columns" in found.finding
    found = only(check_data(rules(name="unknown", more=", columns: {text: letter}")[1]))
    assert found.status == CheckStatus.FAIL
    assert "has no column letter" in found.finding
    assert "the file has: patient_id" in found.fix


def test_a_run_that_would_be_taken_part_in(rules):
    home, found = run(rules)
    assert {name: check.status for name, check in found.items()} == dict.fromkeys(
        ["run: policy", "run: data", "run: training step", "run: privacy"], CheckStatus.PASS
    ), found
    assert "one step of 8" in found["run: training step"].finding
    assert all(verify_ledger(path) == () for _, path in find_ledgers(home.state))  # nothing was booked
    assert set(audit_log.count_events(home.audit)) == {"kit installed"}


def test_a_run_that_the_policy_declines(rules):
    _, found = run(rules, "secagg=off")
    assert found["run: policy"].status == CheckStatus.FAIL
    assert "secure aggregation is required here" in found["run: policy"].finding
    assert found["run: training step"].status == CheckStatus.PASS


def test_a_small_cohort_is_noticed(rules):
    _, found = run(rules, least=100)
    assert found["run: data"].status == CheckStatus.WARN
    assert "fewer patients than limits.min_patients" in found["run: data"].finding
    assert found["run: privacy"].status == CheckStatus.FAIL
    assert "minimum" in found["run: privacy"].finding


def test_an_unreadable_image_is_noticed(rules, hospitals):
    (hospitals / "north" / "images" / "4.png").write_bytes(b"")
    _, found = run(rules)
    assert "unreadable" in found["run"].finding
    _, found = run(rules, "data.max_rejected=0.1")
    assert found["run: data"].status == CheckStatus.WARN
    assert "1 image(s) discarded" in found["run: data"].finding


def test_findings_are_shown_even_of_a_small_cohort(rules, hospitals):
    (hospitals / "north" / "images" / "4.png").write_bytes((hospitals / "north" / "images" / "5.png").read_bytes())
    _, found = run(rules, least=100)
    assert "fewer patients" in found["run: data"].finding
    assert found["run: data: duplicates"].status == CheckStatus.WARN
    assert "equal images belong to several patients" in found["run: data: duplicates"].finding


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data.name=other",), "no data called 'other'"),
        (("training.batch_size=few",), "training.batch_size"),
        (("model.text._target_=os.getcwd",), "is no plain key"),
        (("model.text.pretrained=/etc",), "is no plain value"),
        (("data.root=/etc",), "is for the site to decide"),
    ],
)
def test_words_that_cannot_be_a_run(rules, overrides, message):
    _, found = run(rules, *overrides)
    assert list(found) == ["run"]  # nothing was composed, read or built
    assert found["run"].status == CheckStatus.FAIL
    assert message in found["run"].finding


def test_without_a_kit_no_run_can_be_judged(world, rules):
    home, policy = rules()
    home.membership.unlink()
    assert only(check_run(home, policy, MODEL)).status == CheckStatus.FAIL
