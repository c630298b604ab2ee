"""The lead's Flower application."""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from safetensors.numpy import save

from fedhealth.config.build import instantiate
from fedhealth.config.schema import Config
from fedhealth.job import Job, config_of
from fedhealth.models.multimodal import build_model
from fedhealth.rundir import RunDir, write_atomic, write_json
from fedhealth.training.predictions import score_counts
from fedhealth.training.state import State, get_state, trained_names
from fedhealth.wire import pack, unpack
from strategies.cohort import Cohort
from strategies.federated import FederatedStrategy, Identity
from strategies.statistics import counts_of


def build(job: Job | None = None) -> ServerApp:
    """Return the application, for one job or (where Flower brings it) for the job in the run configuration."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        serve(grid, job or Job.loads(str(context.run_config["job"])))

    return app


def serve(grid: Grid, job: Job) -> None:
    """Run the federation of `job` and leave the model and its evaluation in the run directory."""
    config, folder = config_of(job), RunDir(Path(job.folder))
    strategy = compose_strategy(config, job, folder)
    started = strategy.start(
        grid,
        pack(initial_state(config)),
        num_rounds=config.strategy.rounds,
        timeout=config.strategy.round_timeout,
    )
    write_atomic(folder.path / "model.safetensors", save(unpack(started.arrays)))
    write_json(folder.path / "evaluation.json", _evaluation(strategy, config))


def compose_strategy(config: Config, job: Job, folder: RunDir) -> FederatedStrategy:
    """Put the configured parts together."""
    lead = config.strategy
    return FederatedStrategy(
        Identity(job.run, job.digest),
        Cohort(tuple(config.data.sites), lead.min_sites, lead.quorum),
        aggregation=instantiate(config.secagg["lead"]),
        server_optimizer=instantiate(lead.server_optimizer),
        event=folder.event,
    )


def initial_state(config: Config) -> State:
    """Return the shared arrays that every run of this configuration and seed starts from."""
    model = build_model(config.model, config.data, config.seed)
    return get_state(model, trained_names(model))


def _evaluation(strategy: FederatedStrategy, config: Config) -> dict[str, object]:
    """Return pooled scores of the final model with intervals, from the summed histograms."""
    settings = config.evaluation
    return {
        split: {
            "metrics": {
                name: estimate.as_dict()
                for name, estimate in score_counts(counts, settings.bootstrap, config.seed).items()
            },
            "positives": counts.positives.tolist(),
            "negatives": counts.negatives.tolist(),
        }
        for split, counts in counts_of(strategy.final).items()
    }


app = build()
