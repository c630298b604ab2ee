"""The typed shape of every configuration: a misspelt key or a wrong type fails at composition.

Nodes that may be replaced by other code (towers, fusion, trainer, aggregation, ...) are `Any` here: they name a
callable through `_target_` and are checked against its signature by `fedhealth.config.validate`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

FILES = {
    "_target_": "fedhealth.data.image_files.ImageFiles"
}  # where rows and images come from unless a site says otherwise
MAX_FEATURE = 1000.0
"""Scales from a column's center to which its numbers are clipped: beyond it one row would outweigh the others."""


class TaskKind(Enum):
    """What one row's label is: one of two classes, one of K, or any subset of K."""

    binary = "binary"
    multiclass = "multiclass"
    multilabel = "multilabel"


class Purpose(Enum):
    """What a run is for: a model, or statistics of the patients without any training."""

    train = "train"
    describe = "describe"


class FaultyCells(Enum):
    """What a cell is that the consortium's description does not allow: an error, or a missing value that is counted."""

    refuse = "refuse"
    missing = "missing"


class Sends(Enum):
    """What a site sends for the model: the change that its own optimizer made, or the gradient of one step."""

    update = "update"
    gradient = "gradient"


class Select(Enum):
    """Which round's model a run exports: the best on pooled validation rows, or the last."""

    best = "best"
    last = "last"


class Precision(Enum):
    """The numbers of the forward pass in training: bf16 where that is safe and fast, or always one of the two."""

    auto = "auto"
    float32 = "float32"
    bf16 = "bf16"


class Schedule(Enum):
    """How the learning rate falls over the rounds of a run."""

    constant = "constant"
    linear = "linear"
    cosine = "cosine"


class ColumnKind(Enum):
    """How a tabular column is encoded."""

    numeric = "numeric"
    categorical = "categorical"


@dataclass
class TaskConfig:
    """The label: its kind and the names of its classes, the positive class last for binary.

    Attributes:
        kind: what one row's label is.
        classes: their names.
        words: further words for classes, such as `ja: severe`.
        uncertain: what a label of -1 means (CheXpert's "uncertain"): missing, 0, 1, or drop the row; null refuses it.

    """

    kind: TaskKind = TaskKind.binary
    classes: list[str] = field(default_factory=lambda: ["0", "1"])
    words: dict[str, str] = field(default_factory=dict)
    uncertain: str | None = None


@dataclass
class ColumnsConfig:
    """Which column of the manifest holds what; null where there is no such column (every row is then a patient)."""

    patient: str | None = "patient_id"
    study: str | None = None
    image: str | None = None
    text: str | None = None
    text_path: str | None = None
    labels: list[str] = field(default_factory=lambda: ["label"])
    split: str | None = None


@dataclass
class TabularColumnConfig:
    """One clinical variable.

    `center` and `scale` are public reference values (never a site's own statistics): value -> (value - center) / scale,
    at most `MAX_FEATURE` from zero. A number may be followed by its unit: `unit`, or one of `conversions`, which give
    the factor to it. Numbers outside `valid_range` count as missing. `words` are further words for levels or numbers,
    such as `ja: "1"`.
    """

    kind: ColumnKind = ColumnKind.numeric
    center: float = 0.0
    scale: float = 1.0
    levels: list[str] = field(default_factory=list)
    missing_codes: list[str] = field(default_factory=list)
    required: bool = False
    unit: str = ""
    conversions: dict[str, float] = field(default_factory=dict)
    valid_range: list[float] = field(default_factory=list)
    words: dict[str, str] = field(default_factory=dict)


@dataclass
class ImageDataConfig:
    """The cached images: `channels` x `size` x `size`, uint8.

    `window` is for images with physical values (CT, PET): [center, width] or a name of `fedhealth.config.windows`, or a
    list of these, one for each channel; null takes the window of each header.
    """

    size: int = 64
    channels: int = 1
    window: Any = None


@dataclass
class SplitConfig:
    """Share of patients held out where the manifest names no split; drawn by a hash of the patient id.

    Where the manifest names splits, a row without one is for training, or is left out with `drop_unlisted`.
    """

    validation: float = 0.15
    test: float = 0.15
    drop_unlisted: bool = False


@dataclass
class PublicConfig:
    """A public data set of the same columns that every site mixes into its training rows; null `root` = none."""

    root: str | None = None
    manifest: str = "manifest.csv"


@dataclass
class DataConfig:
    """Where the manifest is, what it means, and what the consortium agreed to read from it.

    `decimal` is how a manifest that no ingest has written writes numbers: with `.` or `,`. `faulty_cells` is the site's
    choice: in the lead's runs a hospital reads them as missing, so that no run fails because of one patient's cell.
    """

    name: str = MISSING
    root: str = MISSING
    manifest: str = "manifest.csv"
    source: Any = field(default_factory=FILES.copy)
    cache: str = "${oc.env:FEDHEALTH_CACHE,'~/.cache/fedhealth'}"
    site_column: str | None = None
    sites: list[str] = MISSING
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    image: ImageDataConfig = field(default_factory=ImageDataConfig)
    tabular: dict[str, TabularColumnConfig] = field(default_factory=dict)
    split: SplitConfig = field(default_factory=SplitConfig)
    max_rejected: float = 0.025
    decimal: str = "."
    faulty_cells: FaultyCells = FaultyCells.refuse
    public: PublicConfig = field(default_factory=PublicConfig)


@dataclass
class ModelConfig:
    """Towers (null = absent), each giving `dim` features (null = as many as it has), and the fusion to logits.

    In training, each modality of a row is hidden with the probability `modality_dropout`, as if it were missing.
    """

    dim: int | None = 64
    image: Any = None
    text: Any = None
    tabular: Any = None
    fusion: Any = MISSING
    modality_dropout: float = 0.0


@dataclass
class TrainingConfig:
    """A site's work in one round: `local_steps` optimizer steps, or `local_epochs` passes; exactly one of them.

    Attributes:
        sends: what leaves the site; with `gradient`, rounds have one step and the lead has the optimizer.
        encoder_lr: factor on the learning rate of what is trained inside encoders: pretrained layers want small changes
            (Howard and Ruder, ACL 2018), and under differential privacy noise grows with the rate.
        schedule: how the learning rate falls over the rounds.
        warmup: number of first rounds in which it rises.
        augmentation: random changes of training images; null for none.
        prevalence: the share of patients with each class, as `fedhealth stats` finds it; then every class weighs alike.
            One number for a binary task (of its positive class), else one for each class; null for no weights.
        label_smoothing: how much of a label's certainty goes to the other classes (Szegedy et al., CVPR 2016).
        micro_batch_size: rows computed at a time; their gradients add up to those of the batch. Null takes all at once.
        precision: of the forward pass; `auto` takes bf16 on a GPU that has it, and float32 in private training.
        channels_last: memory order of convolutions in training; null takes it on a GPU.
        compile: whether torch compiles the model: for long runs on a GPU; the first step can take minutes.
        activation_checkpointing: whether the blocks of encoders drop their activations and compute them again in the
            backward pass: less memory for more time.
        memory_gb: what a task may use on a CPU, in GB; private training splits its batches to fit. Null takes a share
            of what is free.

    """

    batch_size: int = 32
    local_steps: int | None = None
    local_epochs: int | None = None
    sends: Sends = Sends.update
    optimizer: Any = MISSING
    encoder_lr: float = 1.0
    schedule: Schedule = Schedule.constant
    warmup: int = 0
    augmentation: Any = None
    prevalence: list[float] | None = None
    label_smoothing: float = 0.0
    micro_batch_size: int | None = None
    precision: Precision = Precision.auto
    channels_last: bool | None = None
    compile: bool = False
    activation_checkpointing: bool = False
    device: str = "auto"
    threads: int | None = None
    memory_gb: float | None = None


@dataclass
class StrategyConfig:
    """The server side: number of rounds, required sites, and how updates become the next model.

    Attributes:
        rounds: number of training rounds.
        min_sites: fewest sites that must join; null takes all.
        quorum: share of the sites that must reply in a round.
        attempts: how often a round is tried.
        round_timeout: seconds that a site has for a round.
        deadline_factor: a site's deadline as a multiple of its own slowest recent round, if that is less than
            `round_timeout`; null for none.
        staleness: weight, in the next round, of an update that missed its round; 0 drops it.
        join_timeout: seconds to wait while too few sites are connected.
        checkpoints: how many of the newest checkpoints are kept, beside the best.
        select: which round is exported: the best by the pooled validation AUROC, or the last; the last also where no
            round has a score (no validation rows, differential privacy) or where sites keep layers of their own.
        patience: training ends after so many rounds without a better score; null trains all rounds.
        ema: weight of the earlier rounds in a moving average of the models, which the last round then leaves; 0 for
            none.
        server_optimizer: turns the mean update into the next model.
        server_state: the server component of a method.
        aggregation: replaces the weighted mean where there is no secure aggregation.
        max_update_norm: L2 norm to which a site scales a larger update; null for none.

    """

    rounds: int = 5
    min_sites: int | None = None
    quorum: float = 1.0
    attempts: int = 3
    round_timeout: float = 3600.0
    deadline_factor: float | None = None
    staleness: float = 0.0
    join_timeout: float = 600.0
    checkpoints: int = 2
    select: Select = Select.best
    patience: int | None = None
    ema: float = 0.0
    server_optimizer: Any = MISSING
    server_state: Any = MISSING
    aggregation: Any = None
    max_update_norm: float | None = None


@dataclass
class BaselinesConfig:
    """Baselines that are trained after the federation if all data are on one machine.

    Attributes:
        local_only: train one model per site on its own data.
        centralised: train one model on the pooled data of all sites.
        modalities: run the federation with each single tower.
        workers: processes that train baselines.

    """

    local_only: bool = True
    centralised: bool = True
    modalities: bool = False
    workers: int = 1


@dataclass
class EvaluationConfig:
    """How the model is evaluated.

    Attributes:
        bins: of the score histograms.
        bootstrap: resamples for each confidence interval.
        subgroups: columns of `data.tabular` that group the test patients: categorical ones with an empty list, numeric
            ones with the edges of their bands.
        min_group: smallest group that is reported.
        audit: whether a rehearsal on this machine audits its private training at the end.

    """

    bins: int = 2048
    bootstrap: int = 1000
    subgroups: dict[str, list[Any]] = field(default_factory=dict)
    min_group: int = 10
    audit: bool = True


@dataclass
class Config:
    """The whole configuration; `conf/config.yaml` gives each group its default."""

    name: str = "run"
    purpose: Purpose = Purpose.train
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    privacy: Any = MISSING
    secagg: Any = MISSING
    personalization: Any = MISSING
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    runtime: Any = MISSING
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    baselines: BaselinesConfig = field(default_factory=BaselinesConfig)
    sweep: Any = None
    tracking: Any = None
