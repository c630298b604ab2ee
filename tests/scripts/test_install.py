"""install.sh in a network namespace without a route: from a wheelhouse, with hashes, and nothing else."""

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "install.sh"
pytestmark = pytest.mark.skipif(
    subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode != 0,
    reason="needs user namespaces, to take the network away",
)
PROGRAM = "import sys\ndef main():\n    print('fedhealth 9.9', *sys.argv[1:])\n"


def digest(content):
    return hashlib.sha256(content).hexdigest()


def write_wheel(folder, name, files):
    """Write a wheel by hand; return its path."""
    version = "9.9"
    about = f"{name}-{version}.dist-info"
    files = {
        **files,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = []
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
            sha = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record.append(f"{file},sha256={sha},{len(text)}")
        wheel.writestr(f"{about}/RECORD", "\n".join([*record, f"{about}/RECORD,,"]) + "\n")
    return path


@pytest.fixture(name="release")
def release_(tmp_path):
    """A release with a tiny product, two locked packages and a wheelhouse."""
    folder, house = tmp_path / "fedhealth-9.9", tmp_path / "house"
    for each in (folder, house):
        each.mkdir()
    shutil.copy(SCRIPT, folder)
    entry = {"fedhealth-9.9.dist-info/entry_points.txt": "[console_scripts]\nfedhealth = fedhealth:main\n"}
    write_wheel(folder, "fedhealth", {"fedhealth/__init__.py": PROGRAM, "fedhealth/cli/preload_site.py": "", **entry})
    lock = []
    for name in ("setuptools", "torch", "small"):
        wheel = write_wheel(house, name, {f"{name}_like.py": "x = 1\n"})
        lock.append(f"{name}==9.9 \\\n    --hash=sha256:{digest(wheel.read_bytes())}\n")
    (folder / "site.lock").write_text("".join(lock))
    (folder / "setup.yaml").write_text("name: charite\n")
    write_sums(folder)
    return folder, house


def write_sums(folder):
    files = sorted(path for path in folder.iterdir() if path.name != "SHA256SUMS")
    (folder / "SHA256SUMS").write_text("".join(f"{digest(path.read_bytes())}  {path.name}\n" for path in files))


def install(folder, *arguments):
    """Run install.sh without network."""
    command = ["unshare", "-rn", "bash", str(folder / "install.sh"), *map(str, arguments)]
    environment = os.environ | {"PYTHON": sys.executable, "PIP_CONFIG_FILE": os.devnull}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def list_installed(target):
    return {path.name.partition("-")[0] for path in target.glob("lib/*/site-packages/*-9.9.dist-info")}


def test_it_installs_from_a_wheelhouse_without_network_and_goes_on_with_the_setup(release, tmp_path):
    folder, house = release
    (folder / "setup.yaml").write_text("name: klinikum\n")  # the one file that people edit
    done = install(folder, "--wheelhouse", house, "--into", tmp_path / "opt", folder / "setup.yaml")
    assert done.returncode == 0, done.stderr
    assert list_installed(tmp_path / "opt") == {"fedhealth", "setuptools", "torch", "small"}
    assert f"fedhealth 9.9 site setup {folder / 'setup.yaml'}" in done.stdout


def test_a_package_with_another_hash_is_refused(release, tmp_path):
    folder, house = release
    write_wheel(house, "small", {"small_like.py": "x = 2\n"})
    done = install(folder, "--wheelhouse", house, "--into", tmp_path / "opt")
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert "small" not in list_installed(tmp_path / "opt")


def test_a_changed_file_of_the_release_stops_before_anything_is_installed(release, tmp_path):
    folder, house = release
    (folder / "site.lock").write_text((folder / "site.lock").read_text() + "\n")
    done = install(folder, "--wheelhouse", house, "--into", tmp_path / "opt")
    assert done.returncode == 8
    assert "was changed" in done.stderr
    assert not (tmp_path / "opt").exists()


def test_without_a_gpu_torch_comes_from_the_hospitals_own_wheels(release, tmp_path):
    folder, house = release
    own = tmp_path / "cpu"
    own.mkdir()
    for name in ("torch", "torchvision"):
        write_wheel(own, name, {f"{name}_like.py": "x = 'cpu'\n"})
    lock = folder / "site.lock"
    lock.write_text(lock.read_text() + "nvidia-cublas==1 \\\n    --hash=sha256:" + "0" * 64 + "\n")
    write_sums(folder)
    done = install(folder, "--wheelhouse", house, "--cpu", own, "--into", tmp_path / "opt")
    assert done.returncode == 0, done.stderr
    assert list_installed(tmp_path / "opt") == {"fedhealth", "setuptools", "torch", "torchvision", "small"}
    [module] = (tmp_path / "opt").glob("lib/*/site-packages/torch_like.py")
    assert "cpu" in module.read_text()
