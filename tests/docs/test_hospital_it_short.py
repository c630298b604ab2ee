"""docs/hospital-it-short.md: its commands are ones that exist, and printed it has two sides."""

import re
import shlex
import shutil
import subprocess

import markdown
import pytest
import typer

from fedhealth.cli import main as program
from tests.guide import DOCS

TEXT = (DOCS / "hospital-it-short.md").read_text("utf-8")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
STYLE = """@page { size: A4; margin: 15mm } body { font: 9.5pt/1.3 sans-serif } h1 { font-size: 15pt }
h2 { font-size: 11.5pt; margin: 8pt 0 3pt } p { margin: 4pt 0 } pre { font-size: 8.5pt; margin: 4pt 0; padding: 4pt }
table { border-collapse: collapse } td, th { border: 1px solid #999; padding: 1pt 4pt; vertical-align: top }"""


def list_commands():
    """Return what the page tells to type that is ours: words after `fedhealth`, or `site` as the page defines it."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", TEXT, re.S)).replace("\\\n", " ")
    lines = [line.partition("  #")[0].strip() for line in blocks.splitlines() if "site() {" not in line]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", TEXT, flags=re.S))
    found = [re.sub(r"^(sudo )?/opt/fedhealth/bin/fedhealth ", "", line) for line in [*lines, *inline]]
    return [words for line in found if (words := shlex.split(line)) and words[0] == "site" and len(words) > 1]


def test_the_page_names_many_commands():
    assert len(list_commands()) > 20


@pytest.mark.parametrize("words", list_commands(), ids=" ".join)
def test_a_command_of_the_page_exists_and_takes_these_options(words):
    command, name = typer.main.get_command(program.app), []
    while hasattr(command, "commands"):
        name.append(words.pop(0))
        command = command.commands[name[-1]]
    needs = {parameter.name for parameter in command.params if parameter.required}
    if words or not needs:  # in the running text a command may stand without its arguments
        command.make_context(" ".join(name), words)


@pytest.mark.services
@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
def test_it_fits_on_two_printed_sides(tmp_path):
    body = markdown.markdown(TEXT, extensions=["tables", "fenced_code"])
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><style>{STYLE}</style>{body}")
    printed = tmp_path / "page.pdf"
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"]
    command += [f"--print-to-pdf={printed}", f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert len(re.findall(rb"/Type\s*/Page\b", printed.read_bytes())) == 2
