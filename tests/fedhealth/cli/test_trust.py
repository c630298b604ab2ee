"""The way of trust as people walk it: provision, init, admit, install, renew, revoke. Nothing secret is shown."""

import io
import re

import pytest

from fedhealth.cli.main import main
from fedhealth.errors import ConfigError, TrustError
from fedhealth.lead.home import LeadHome
from fedhealth.site.home import SiteHome
from fedhealth.site.install import load_installed_membership

FINGERPRINT = re.compile(r"[0-9a-f]{4}(?:-[0-9a-f]{4}){9}")
LEAD = "lead.example:9092"


class People:
    """Runs commands, gives answers, remembers everything that was shown."""

    def __init__(self, root, monkeypatch, capfd):
        self.root, self.monkeypatch, self.capfd, self.shown = root, monkeypatch, capfd, ""
        self.lead, self.home = LeadHome(root / "lead"), SiteHome(root / "site")
        self.project = root / "project.yaml"
        self.project.write_text(f"project: chest\nlead: {LEAD}\n")

    def __call__(self, *arguments, answer=""):
        """Return exit code and output of a command."""
        self.monkeypatch.setenv("FEDHEALTH_LEAD", str(self.lead.path))
        self.monkeypatch.setenv("FEDHEALTH_HOME", str(self.home.path))
        self.monkeypatch.setenv("COLUMNS", "120")
        self.monkeypatch.setattr("sys.argv", ["fedhealth", *map(str, arguments)])
        self.monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = self.capfd.readouterr()
        self.shown += out + err
        return stopped.value.code or 0, out + err

    def begin(self):
        """Provision, and set the site up to its request; return its fingerprint."""
        assert self("lead", "provision", self.project)[0] == 0
        code, shown = self("site", "init", "--name", "charite", "--lead", LEAD)
        assert code == 0
        return FINGERPRINT.search(shown)[0]

    @property
    def kit(self):
        """The site's kit."""
        return self.lead.kits / "charite.zip"


@pytest.fixture(name="people")
def people_(tmp_path, monkeypatch, capfd):
    return People(tmp_path, monkeypatch, capfd)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xef\xbb\xbf{}", b'{"\\u001b]0;x": 1}'])
def test_a_refused_file_is_named_and_cannot_control_the_terminal(people, content):
    people.begin()
    path = people.root / "evil.json"
    path.write_bytes(content)
    code, shown = people("lead", "admit", path)
    assert code == TrustError.exit_code
    assert f"error: {path}: " in shown.replace("\n", "")
    assert "\x1b]" not in shown
    kit = people.root / "evil.zip"
    kit.write_bytes(content)
    code, shown = people("site", "install", kit)
    assert code == TrustError.exit_code
    assert f"error: {kit}: " in shown.replace("\n", "")


def test_the_whole_way(people):
    told = people.begin()
    code, shown = people("lead", "admit", people.home.join_request, answer="y\n")
    assert code == 0
    assert told in shown
    assert str(people.kit) in shown
    consortium = re.search(r"Consortium fingerprint (\S+)", shown)[1]
    code, shown = people("site", "install", people.kit, answer="y\n")
    assert code == 0
    assert f"Consortium fingerprint {consortium}" in shown
    assert "This is the first kit." in shown
    assert told in shown
    code, shown = people("lead", "members")
    assert code == 0
    assert told in shown
    assert "valid for 365 more days" in shown
    assert people("lead", "renew")[0] == 0
    assert "number 2" in people("lead", "rotate")[1]
    code, shown = people("site", "install", people.kit, answer="y\n")
    assert code == 0
    assert "Change: the consortium has a new key" in shown
    assert people("lead", "revoke", "charite", "--yes")[0] == ConfigError.exit_code


def test_a_second_hospital_joins_and_leaves(people, tmp_path):
    people.begin()
    people("lead", "admit", people.home.join_request, answer="y\n")
    other = tmp_path / "other"
    people("site", "init", "--name", "klinikum", "--lead", LEAD, "--home", other)
    code, shown = people("lead", "admit", other / "join-request.json", answer="y\n")
    assert code == 0
    assert "New kits of the other members are in" in shown
    assert people("lead", "revoke", "klinikum", answer="n\n")[0] == TrustError.exit_code
    code, shown = people("lead", "revoke", "klinikum", answer="y\n")
    assert code == 0
    assert "klinikum is no longer a member" in shown
    assert people("lead", "admit", other / "join-request.json", answer="y\n")[0] == TrustError.exit_code
    assert "every hospital needs its kit" in people("lead", "renew", "--ca")[1]


def test_a_no_changes_nothing(people):
    people.begin()
    assert people("lead", "admit", people.home.join_request, answer="n\n")[0] == TrustError.exit_code
    assert not people.kit.exists()
    people("lead", "admit", people.home.join_request, answer="y\n")
    for answer in ("n\n", ""):
        assert people("site", "install", people.kit, answer=answer)[0] == TrustError.exit_code
        assert load_installed_membership(people.home) is None


def test_a_fingerprint_replaces_the_question_and_must_be_right(people):
    told = people.begin()
    wrong = told[::-1]
    assert people("lead", "admit", people.home.join_request, "--fingerprint", wrong)[0] == TrustError.exit_code
    assert not people.kit.exists()
    code, shown = people("lead", "admit", people.home.join_request, "--fingerprint", told)
    assert code == 0
    consortium = re.search(r"Consortium fingerprint (\S+)", shown)[1]
    code, shown = people("site", "install", people.kit, "--fingerprint", told)
    assert code == TrustError.exit_code
    assert "fingerprint is" in shown
    assert people("site", "install", people.kit, "--fingerprint", consortium)[0] == 0


def test_without_members_there_is_nothing_to_show(people):
    assert people("lead", "members")[0] == TrustError.exit_code
    people.begin()
    assert "There are no members yet." in people("lead", "members")[1]


def test_a_file_that_is_not_there_is_said(people, tmp_path):
    people.begin()
    for arguments in (("lead", "admit"), ("site", "install")):
        code, shown = people(*arguments, tmp_path / "gone")
        assert code == ConfigError.exit_code
        assert "there is no such file" in shown


def test_nothing_secret_is_ever_shown_or_sent(people):
    people.begin()
    people("lead", "admit", people.home.join_request, answer="y\n")
    people("site", "install", people.kit, answer="y\n")
    people.home.node_key.chmod(0o644)
    assert people("--debug", "site", "install", people.kit, answer="y\n")[0] == TrustError.exit_code
    people("lead", "rotate")
    people("lead", "renew", "--ca")
    secrets = [path for home in (people.lead, people.home) for path in home.keys.iterdir()]
    secrets += [people.lead.token_file, people.lead.superexec_secret]
    public = [people.home.join_request, people.home.audit, people.home.policy, people.lead.membership, people.kit]
    told = [people.shown.encode(), *(path.read_bytes() for path in public)]
    assert len(secrets) == 8
    for path in secrets:
        secret = path.read_bytes()
        lines = [line for line in secret.splitlines() if len(line) > 30 and not line.startswith(b"-----")]
        for spelt in (secret, secret.hex().encode(), *lines):
            assert not any(spelt in content for content in told)
    assert not any(b"PRIVATE" in content for content in told)
