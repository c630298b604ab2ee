"""The page in a real browser, where there is one: what it fetches, whether it fits, whether dark is dark."""

import json
import re
import shutil
import subprocess

import pytest

from fedhealth.report.render import render_page
from fedhealth.report.sweep_page import build_sweep_page
from fedhealth.runs.table import load_run_entries
from tests.fedhealth.runs.test_table import write

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine"),
    pytest.mark.usefixtures("drawn_charts"),
]

# The frame gives the page its width: a headless window is never narrower than 500 px.
PROBE = """<!DOCTYPE html><body style="margin:0">
<iframe id="frame" src="report.html" style="border:0;height:800px;width:{width}px"></iframe>
<script>
addEventListener("load", () => {{
  const page = document.getElementById("frame").contentDocument;
  const root = page.documentElement;
  const wide = [...page.querySelectorAll("body *")].filter(e => !e.closest("svg") || e.tagName === "svg")
    .filter(e => e.getBoundingClientRect().right > root.clientWidth + 1)
    .filter(e => !e.closest("thead")).map(e => e.tagName + " " + e.textContent.trim().slice(0, 30));
  const drawn = [...page.querySelectorAll("svg")].filter(e => e.getBoundingClientRect().height > 80).length;
  const paper = getComputedStyle(page.body).backgroundColor;
  document.title = JSON.stringify({{client: root.clientWidth, scroll: root.scrollWidth, wide, drawn, paper}});
}});
</script>"""


def look(folder, width, dark=False):
    """Return what the probe saw: page width, width needed, elements too wide, charts drawn, background."""
    (folder / "probe.html").write_text(PROBE.format(width=width))
    shown = browse(folder, "probe.html", dark, "--allow-file-access-from-files", "--dump-dom")
    return json.loads(re.search(r"<title>(.*?)</title>", shown)[1].replace("&amp;", "&"))


def browse(folder, page, dark, *options):
    """Open a page of the folder and return what the browser printed; nothing may be wrong on its console."""
    options = [*options, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
    options += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    options += [f"--user-data-dir={folder / 'profile'}", f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    command = [BROWSER, "--enable-logging=stderr", *options, "--window-size=1400,900", f"file://{folder / page}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert complaints == []  # a page that fetched anything would have broken its own content policy
    return done.stdout


@pytest.fixture
def folder(whole, tmp_path):
    (tmp_path / "report.html").write_text(whole[1])
    return tmp_path


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits(folder, width):
    seen = look(folder, width)
    assert seen["client"] == width
    assert seen["scroll"] == width
    assert seen["wide"] == []
    assert seen["drawn"] == 10


def test_dark_is_dark(folder):
    light, dark = (look(folder, 1280, dark)["paper"] for dark in (False, True))
    assert light == "rgb(255, 255, 255)"
    assert max(map(int, re.findall(r"\d+", dark))) < 60


def test_it_prints_on_a_few_pages(folder):
    browse(folder, "report.html", True, f"--print-to-pdf={folder / 'report.pdf'}", "--no-pdf-header-footer")
    printed = (folder / "report.pdf").read_bytes()
    assert printed.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 10


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_of_several_runs_fits(tmp_path, width):
    runs = [(0.9, 8, 1e8), (0.8, 1, 1e8), (0.85, 3, 2e6), (0.7, 8, 1e8)]
    for place, (auroc, epsilon, sent) in enumerate(runs):
        write(tmp_path / "sweep", place, auroc, epsilon, int(sent))
    found = load_run_entries([tmp_path / "sweep"])
    (tmp_path / "report.html").write_text(render_page(lambda: build_sweep_page(found)))
    seen = look(tmp_path, width)
    assert (seen["client"], seen["scroll"], seen["wide"], seen["drawn"]) == (width, width, [], 3)
