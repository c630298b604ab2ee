"""What a user imports: every exported name is there, is listed once, and is imported only when it is used."""

import importlib
import subprocess
import sys

import pytest

PACKAGES = ("fedhealth", "fedhealth.privacy", "fedhealth.secagg", "strategies", "clients")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_exported_name_can_be_imported(package):
    module = importlib.import_module(package)
    assert list(module.__all__) == sorted(set(module.__all__))
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018 - reading it is the test


def test_packages_load_no_heavy_library():
    """Each takes seconds; the command line's help may take half a second."""
    script = "import sys, fedhealth, strategies, clients\nprint(sorted({'torch', 'flwr', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_line_of_the_readme_works():
    script = "from strategies import FedAvg, SecureFedAvg, StockFedAvg; from clients import make_secure_client"
    subprocess.run([sys.executable, "-c", script], check=True)
