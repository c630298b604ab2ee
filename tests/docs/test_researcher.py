"""docs/researcher.md, followed command by command on small hospitals."""

import json

import pytest

from fedhealth.cli.main import main
from fedhealth.data.synthetic import write_hospitals
from tests.guide import steps


@pytest.mark.services
def test_the_guide_works_as_written(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDHEALTH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    shown = []
    for step in steps("researcher.md"):
        if step.mark:
            write_hospitals(tmp_path / "outputs" / "demo" / "hospitals", patients=40)
            continue
        if step.code:
            exec(step.code, {})
            continue
        monkeypatch.setattr("sys.argv", list(step.words))
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capfd.readouterr()
        assert not stopped.value.code, f"{' '.join(step.words)}: {out}{err}"
        shown.append(out)
    outputs = tmp_path / "outputs"
    left = ["stats/statistics.json", "first/report.html", "grid/compare.html", "two/compare.csv", "search/compare.html"]
    left += ["python/report.html"]
    assert all((outputs / name).is_file() for name in [*left, "scores.csv"])
    assert [path.name for path in sorted((outputs / "grid").glob("*/run.json"))] == ["run.json"] * 2
    said = "".join(shown)
    for message in ("variable.age: mean", "kept 0:", "Tracked:", '"probabilities"'):
        assert message in said, message
    assert any(message in said for message in ("it gains", "No run is chosen"))  # the noise of the scores decides
    assert {each["name"] for each in json.loads((outputs / "stats" / "statistics.json").read_text())} >= {"label.label"}
