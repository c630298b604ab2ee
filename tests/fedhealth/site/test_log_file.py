"""The site's log is rotated by the daemon, and workers follow."""

import logging

import pytest

from fedhealth.site import log_file


@pytest.fixture(autouse=True)
def logger_():
    logger = logging.getLogger("fedhealth")
    before, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield logger
    for handler in set(logger.handlers) - set(before):
        handler.close()
    logger.handlers[:] = before
    logger.setLevel(level)
    logger.propagate = propagate


def test_a_full_log_is_replaced_and_a_worker_writes_to_the_new_one(tmp_path, monkeypatch):
    monkeypatch.setattr(log_file, "_MAX_BYTES", 2000)
    path, log = tmp_path / "run" / "site.log", logging.getLogger("fedhealth.site")
    log_file.configure_daemon_log(path)
    daemon = list(logging.getLogger("fedhealth").handlers)
    log_file.configure_worker_log(path)
    worker = list(logging.getLogger("fedhealth").handlers)
    for _ in range(30):  # about 100 bytes each, of the worker; the daemon's next line begins a new file
        log.info("%s", "x" * 60)
    logging.getLogger("fedhealth").handlers[:] = daemon
    log.info("of the daemon, %s", "y" * 60)
    logging.getLogger("fedhealth").handlers[:] = worker
    log.info("of the worker")
    for handler in (*daemon, *worker):
        handler.close()
    assert path.with_name("site.log.1").stat().st_size > 1500
    assert "of the daemon" in path.read_text()
    assert "of the worker" in path.read_text()
