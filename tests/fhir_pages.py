"""A FHIR server of prepared pages in a process of its own, to measure how fast they are read."""

import json
import multiprocessing
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

from tests.stub_server import Stub


@contextmanager
def serve_pages(resources, count):
    """Yield the address of a server of these resources in pages; other parameters of a search are ignored."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run_server, args=(theirs, resources, count), daemon=True)
    process.start()
    yield ours.recv()
    process.terminate()
    process.join()


def _run_server(connection, resources, count):
    pages = {}

    def answer(path, headers):
        parts = urlsplit(path)
        number = int(parse_qs(parts.query).get("_page", ["0"])[0])
        return 200, {}, pages[parts.path.rpartition("/")[2], number]

    stub = Stub(answer)
    for kind in {each["resourceType"] for each in resources}:
        chosen = [{"resource": each} for each in resources if each["resourceType"] == kind]
        for number in range(-(-len(chosen) // count)):
            rest = len(chosen) > count * (number + 1)
            link = [{"relation": "next", "url": f"{stub.url}/{kind}?_page={number + 1}"}] * rest
            page = {"resourceType": "Bundle", "link": link, "entry": chosen[count * number : count * (number + 1)]}
            pages[kind, number] = json.dumps(page).encode()
    connection.send(stub.url)
    multiprocessing.Event().wait()
