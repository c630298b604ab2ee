"""Caches of a site are listed and deleted; nothing else in their folder is touched."""

import json
import os

import pytest

from fedhealth.cli.main import main
from fedhealth.site.daemon_state import DaemonState
from fedhealth.site.home import SiteHome
from fedhealth.site.init import init_site


@pytest.fixture(name="home")
def home_(tmp_path, monkeypatch):
    home = SiteHome(tmp_path / "home")
    init_site(home, "charite", "lead.hospital.test:443")
    monkeypatch.setenv("FEDHEALTH_CACHE", str(tmp_path / "cache"))
    for age, name in enumerate(("new", "old")):
        folder = tmp_path / "cache" / "charite" / name
        folder.mkdir(parents=True)
        for part in ("rows.npz", "images.npy", "image-features.npy"):
            (folder / part).write_bytes(bytes(1_000_000))
            os.utime(folder / part, (1e9 - age, 1e9 - age))
    (tmp_path / "cache" / "charite" / "notes").mkdir()
    (tmp_path / "cache" / "other-site" / "x").mkdir(parents=True)
    (tmp_path / "cache" / "other-site" / "x" / "rows.npz").touch()
    return home


@pytest.fixture(name="call")
def call_(home, monkeypatch, capfd):
    def call(*arguments):
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr("sys.argv", ["fedhealth", "site", "data", "cache", *arguments, "--home", str(home.path)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code or 0, capfd.readouterr()

    return call


def test_what_is_cached_is_listed_with_its_size(call):
    listed = json.loads(call("--json")[1].out)
    assert [each["folder"].rpartition("/")[2] for each in listed] == ["old", "new"]
    assert listed[0]["parts"] == ["image-features", "images", "rows"]
    assert listed[0]["megabytes"] == 3.0
    assert "image-features" in call()[1].out


def test_a_purge_deletes_the_sites_caches_alone(call, tmp_path):
    assert "2 caches deleted, 6 MB" in call("--purge")[1].out
    assert [path.name for path in (tmp_path / "cache" / "charite").iterdir()] == ["notes"]
    assert (tmp_path / "cache" / "other-site" / "x" / "rows.npz").is_file()


def test_a_site_at_work_keeps_them(call, home, tmp_path):
    state = DaemonState(home)
    with state.lock():
        state.update_status(state="working")
        code, shown = call("--purge")
    assert code == 9
    assert "works on a task" in shown.err
    assert (tmp_path / "cache" / "charite" / "new").is_dir()
