"""A real FHIR R4 server for tests: npm's @medplum/fhir-router behind `tests/fhir_server.cjs`, on loopback."""

import shutil
import subprocess
from pathlib import Path

import requests

from fedhealth.runtime.local_consortium import find_free_ports

FOLDER = Path(__file__).resolve().parents[1] / "build" / "fhir-server"
NODE = shutil.which("node")
ABSENT = NODE is None or not (FOLDER / "node_modules" / "@medplum" / "fhir-router").is_dir()


class FhirServer:
    """A server that starts empty."""

    def __init__(self):
        self.port, _ = find_free_ports()
        self.url, self.process = f"http://127.0.0.1:{self.port}/fhir/R4", None

    def __enter__(self):
        program = [NODE, str(Path(__file__).with_suffix(".cjs")), str(FOLDER), str(self.port)]
        self.process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline().strip() == "ready", "the FHIR server does not start"
        return self

    def __exit__(self, *fault):
        self.process.terminate()
        self.process.wait(30)
        self.process.stdout.close()

    def add(self, resources):
        """Store resources with the ids that they have."""
        with requests.Session() as session:
            for resource in resources:
                place = f"{self.url}/{resource['resourceType']}/{resource['id']}"
                answer = session.put(place, json=resource, timeout=30)
                assert answer.status_code in (200, 201), answer.text
