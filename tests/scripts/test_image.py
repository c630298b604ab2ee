"""The image that docs/containers.md builds with buildah: it starts as its user on a read-only root and is healthy.

`make image` runs it: it fetches and installs the packages of a site.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from release.build_release import build_release

ROOT = Path(__file__).resolve().parents[2]
FULL = os.environ.get("FEDHEALTH_IMAGE_TEST") == "full"
NEEDED = ("buildah", "mmdebstrap", "bwrap")
HOME = "/var/lib/fedhealth"


def run(*command, folder=None, **more):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, **more)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def read_commands():
    """Return the commands of the guide that build an image without a registry."""
    [block] = re.findall(r"```sh\n(mmdebstrap.*?)```", (ROOT / "docs" / "containers.md").read_text(), re.DOTALL)
    return block


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The folder of the built image, and its variables."""
    folder = tmp_path_factory.mktemp("image")
    archive = build_release(ROOT, folder / "release", None)
    run("tar", "-xf", str(archive), "-C", str(folder))
    [unpacked] = folder.glob("fedhealth-*/")
    variables = os.environ | {"BUILDAH_ISOLATION": "chroot", "PYTHON": "/usr/bin/python3"}
    run("sh", "-ec", f"./install.sh --download wheelhouse\n{read_commands()}", folder=unpacked, env=variables)
    container = run("buildah", "from", "fedhealth-site").strip()
    settings = (
        "{{range .Docker.Config.Env}}{{println .}}{{end}}{{.Docker.Config.User}} {{.Docker.Config.Healthcheck.Test}}"
    )
    yield Path(run("buildah", "mount", container).strip()), run("buildah", "inspect", "--format", settings, container)
    run("buildah", "rm", "--all")
    run("buildah", "rmi", "--force", "fedhealth-site", "localhost/debian-python")


def start(image, home, *command):
    """Run a command in the image, as its user, read-only but its volume and /tmp."""
    root, settings = image
    view = [
        "--ro-bind",
        str(root),
        "/",
        "--dev",
        "/dev",
        "--proc",
        "/proc",
        "--tmpfs",
        "/tmp",
        "--bind",
        str(home),
        HOME,
    ]
    view += [
        "--chdir",
        HOME,
        "--unshare-user",
        "--uid",
        "10001",
        "--gid",
        "10001",
        "--unshare-pid",
        "--cap-drop",
        "ALL",
    ]
    variables = dict(line.split("=", 1) for line in settings.splitlines()[:-1])
    return subprocess.run(["bwrap", *view, *command], env=variables, capture_output=True, text=True)


@pytest.mark.skipif(not FULL, reason="a part of `make image`")
@pytest.mark.skipif(not all(map(shutil.which, NEEDED)), reason=f"needs {', '.join(NEEDED)}")
def test_the_image_starts_read_only_as_its_user_and_is_healthy(image, tmp_path):
    assert image[1].splitlines()[-1].startswith("10001:10001 [CMD /bin/sh -c fedhealth ${FEDHEALTH_SIDE} metrics")
    made = start(image, tmp_path, "fedhealth", "site", "init", "--name", "charite", "--lead", "lead.example:9092")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "keys" / "node.key").stat().st_mode & 0o077 == 0
    health = start(image, tmp_path, "/bin/sh", "-c", "fedhealth ${FEDHEALTH_SIDE} metrics")
    assert "fedhealth_site_up" in health.stdout, health.stderr
    assert "Read-only file system" in start(image, tmp_path, "touch", "/opt/other").stderr
