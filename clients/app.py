"""The hospital's Flower application."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from clients.institution import Institution, Site
from fedhealth.job import Job, config_of
from fedhealth.rundir import RunDir
from fedhealth.wire import EVALUATE, HANDSHAKE, SIGN, TRAIN, UNMASK, Directive, failure

Answer = Callable[[Institution, Directive, RecordDict], RecordDict]

log = logging.getLogger("fedhealth.site")

ANSWERS: dict[str, Answer] = {
    HANDSHAKE: lambda institution, directive, content: institution.accept(directive),
    TRAIN: lambda institution, directive, content: institution.fit(directive, content),
    EVALUATE: lambda institution, directive, content: institution.evaluate(directive, content),
    SIGN: lambda institution, directive, content: institution.answer(directive, SIGN, content),
    UNMASK: lambda institution, directive, content: institution.answer(directive, UNMASK, content),
}


def build(job: Job | None = None) -> ClientApp:
    """Return the application, for one job or (where Flower brings it) for the job in the run configuration."""
    app = ClientApp()

    def handle(message: Message, context: Context) -> Message:
        return answer(message, context, job or Job.loads(str(context.run_config["job"])))

    for message_type in ANSWERS:
        category, action = message_type.split(".")
        getattr(app, category)(action)(handle)
    return app


def answer(message: Message, context: Context, job: Job) -> Message:
    """Answer one message; a fault stays in the site's log, the lead learns its kind."""
    try:
        institution = institution_of(site_of(context, job), job)
        directive = Directive.parse(message.content)
        content = ANSWERS[message.metadata.message_type](institution, directive, message.content)
        return Message(content, reply_to=message)
    except Exception as fault:
        log.exception("%s failed", message.metadata.message_type)
        return failure(fault, message)


def site_of(context: Context, job: Job) -> Site:
    """Return the site that a node is: named by its own configuration, or by its place among the run's sites."""
    name = context.node_config.get("site")
    if name is None:
        name = config_of(job).data.sites[int(context.node_config["partition-id"])]
    return Site(str(name), RunDir(Path(job.folder)).site(str(name)))


@lru_cache(maxsize=128)
def institution_of(site: Site, job: Job) -> Institution:
    """Return the institution; kept between tasks for its caches only."""
    return Institution(site, config_of(job), job.digest)


app = build()
