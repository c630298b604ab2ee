"""From the archive of a release to a green `site check`, on a machine without network: commands, files, size, seconds.

`python -m benchmarks.install [--quick] [--wheelhouse FOLDER]` runs as root, in a network namespace without a route,
with the packages of a wheelhouse (fetched first, unless given). It prints one JSON object as its last line. The lead's
side runs in the same namespace. `--quick` checks with 40 instead of 200 patients.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from fedhealth.consortium.membership import SignedMembership
from fedhealth.data.synthetic import write_hospitals
from fedhealth.lead.admit import admit_member
from fedhealth.lead.project import load_project
from fedhealth.runtime.local_consortium import LocalConsortium
from release.build_release import build_release
from release.lock_file import find_missing_hashes

SITE, ACCOUNT = "charite", "nobody"
CUDA = re.compile(r"(nvidia|triton|cuda)")


def main() -> None:
    """Measure, inside a namespace without network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--wheelhouse", type=Path, help="folder made by install.sh --download")
    parser.add_argument("--archive", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("The benchmark sets up a service: run it as root.")
    if asked.archive:  # the second start, without network
        print(json.dumps(measure_installation(asked.archive, asked.wheelhouse, 40 if asked.quick else 200)))
        return
    with tempfile.TemporaryDirectory(prefix="fedhealth-install-", dir="/var/tmp") as scratch:
        archive = build_release(Path.cwd(), Path(scratch) / "release", None)
        wheelhouse = asked.wheelhouse or fetch_packages(archive, Path(scratch))
        command = [sys.executable, "-m", "benchmarks.install", *(["--quick"] if asked.quick else [])]
        command += ["--archive", str(archive), "--wheelhouse", str(wheelhouse)]
        alone = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "alone", *command]
        sys.exit(subprocess.run(alone, check=False).returncode)


def fetch_packages(archive: Path, folder: Path) -> Path:
    """Fetch the packages of a site, as a machine with network does for one without."""
    run_command(["tar", "-xf", archive.name, "-C", str(folder)], archive.parent)
    (unpacked,) = folder.glob("fedhealth-*/")
    run_command([str(unpacked / "install.sh"), "--download", str(folder / "wheelhouse")], folder)
    return folder / "wheelhouse"


def measure_installation(archive: Path, wheelhouse: Path, patients: int) -> dict[str, object]:
    """Install a release and set up a hospital with three commands; return the figures."""
    folder = Path(tempfile.mkdtemp(prefix="fedhealth-install-", dir="/srv"))
    folder.chmod(0o755)
    shutil.copy(archive, folder)
    write_hospitals(folder / "hospitals", patients=patients, sites=1)
    [data] = (folder / "hospitals").iterdir()
    try:
        lead = start_lead(folder)
        try:
            return install_hospital(folder, archive.name, wheelhouse, data, lead)
        finally:
            lead.stop()
    finally:
        shutil.rmtree(folder)


def start_lead(folder: Path) -> LocalConsortium:
    """Start a lead with one other member."""
    lead = LocalConsortium(folder / "consortium", {"klinikum": folder})
    lead.root.mkdir(mode=0o700)
    lead.set_up()
    lead.start_lead()
    return lead


def install_hospital(
    folder: Path, archive: str, wheelhouse: Path, data: Path, lead: LocalConsortium
) -> dict[str, object]:
    """Run the three commands; between the second and the third the lead admits the hospital."""
    version = archive.removesuffix("-release.tar.gz")
    answers, target, commands = folder / version / "setup.yaml", folder / "opt", list[Sequence[str]]()
    home = folder / "home"

    def run(*words: str) -> None:
        commands.append(words)
        run_command(words, folder)

    begin = time.monotonic()
    run("tar", "-xf", archive)
    edit_answers(answers, lead, data, home, folder / "units")
    install = [str(folder / version / "install.sh"), "--wheelhouse", str(wheelhouse), "--into", str(target)]
    run(*install, str(answers))
    kit, fingerprint = admit_hospital(lead, home / "join-request.json", folder)
    program = str(target / "bin" / "fedhealth")
    run(program, "site", "setup", str(answers), "--kit", str(kit), "--fingerprint", fingerprint)
    seconds = time.monotonic() - begin
    [packages] = target.glob("lib/*/site-packages")
    return {
        "commands": len(commands),
        "edited_files": 1,
        "site_packages_without_cuda": len([p for p in packages.glob("*.dist-info") if not CUDA.match(p.name)]),
        "site_mb_without_cuda": round(sum(measure_megabytes(p) for p in packages.iterdir() if not CUDA.match(p.name))),
        "seconds_to_green_check": round(seconds),
        "hashes_missing": sum(len(find_missing_hashes(path)) for path in (folder / version).glob("*.lock")),
    }


def edit_answers(path: Path, lead: LocalConsortium, data: Path, home: Path, units: Path) -> None:
    """Edit setup.yaml, the only file that is edited."""
    answers = yaml.safe_load(path.read_text("utf-8"))
    answers |= {
        "name": SITE,
        "lead": load_project(lead.lead.project).lead,
        "user": ACCOUNT,
        "home": str(home),
        "units": str(units),
    }
    answers["data"]["demo"]["root"] = str(data)
    path.write_text(yaml.safe_dump(answers), "utf-8")


def admit_hospital(lead: LocalConsortium, request: Path, folder: Path) -> tuple[Path, str]:
    """Admit the hospital at the lead; return its kit and the fingerprint that the lead would say."""
    admit_member(lead.lead, request.read_bytes())
    kit = folder / f"{SITE}.zip"
    shutil.copy(lead.lead.kits / kit.name, kit)
    return kit, SignedMembership.loads(lead.lead.membership.read_bytes()).membership.fingerprint


def measure_megabytes(path: Path) -> float:
    """Return the size of a file or folder in MB."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(each.lstat().st_size for each in files) / 1e6


def run_command(words: Sequence[str], folder: Path) -> None:
    """Run a command and show it; its output goes to standard error."""
    print("$", *words, file=sys.stderr)
    environment = {"PATH": os.environ["PATH"], "PYTHON": "/usr/bin/python3", "PIP_CONFIG_FILE": os.devnull}
    subprocess.run(list(words), cwd=folder, env=environment, check=True, stdout=sys.stderr)


if __name__ == "__main__":
    main()
