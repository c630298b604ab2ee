"""Recommend overrides from the numbers of a study: a short list, each with its reason.

The rules are those of docs/researcher.md ("What to start with"); nothing is computed from patients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fedhealth.config.quoting import quote_value
from fedhealth.errors import ConfigError

FEW_PATIENTS = 200  # at the smallest hospital: private training needs more for a small epsilon
MANY_PATIENTS = 5000  # of all hospitals together: enough to train an encoder
FEWEST_SITES = 3
MODALITIES = ("image", "text", "tabular")


@dataclass(frozen=True)
class StudyFacts:
    """What is known of a study before it starts.

    Attributes:
        patients: of the smallest hospital, for training.
        sites: number of hospitals.
        modalities: of `MODALITIES`.
        epsilon: of the privacy of each patient; None for no differential privacy.
        text_encoder: a Hugging Face folder; empty for none.
        image_encoder: a Hugging Face folder; empty for none.
        image_weights: torchvision weights of a MobileNetV2; empty for none.

    """

    patients: int
    sites: int
    modalities: frozenset[str]
    epsilon: float | None = None
    text_encoder: str = ""
    image_encoder: str = ""
    image_weights: str = ""


@dataclass(frozen=True)
class Recommendation:
    """Overrides that belong together, and why; without overrides it is advice alone."""

    overrides: tuple[str, ...]
    reason: str


def recommend_overrides(facts: StudyFacts) -> list[Recommendation]:
    """Return the recommendations for a study.

    Raises:
        ConfigError: the numbers describe no study.

    """
    if facts.patients < 1 or facts.sites < 1 or not facts.modalities or not facts.modalities <= set(MODALITIES):
        raise ConfigError(
            "These numbers describe no study.",
            f"Give at least one patient, one hospital, and modalities among {', '.join(MODALITIES)}.",
        )
    if facts.epsilon is not None and not facts.epsilon > 0:
        raise ConfigError(f"Epsilon must be positive, not {facts.epsilon}.", "Give a number, such as 8, or none.")
    return [*_recommend_towers(facts), *_recommend_privacy(facts), *_recommend_protection(facts)]


def _recommend_towers(facts: StudyFacts) -> Iterator[Recommendation]:
    absent = [name for name in MODALITIES if name not in facts.modalities]
    if absent:
        yield Recommendation(tuple(f"model.{name}=null" for name in absent), "The study has none of these.")
    if "text" in facts.modalities:
        yield _recommend_text(facts)
    if "image" in facts.modalities:
        yield _recommend_image(facts)
    if len(facts.modalities) > 1 and facts.epsilon is None:
        yield Recommendation(
            ("model.modality_dropout=0.2", "baselines.modalities=true"),
            "No modality drowns the others, and a rehearsal shows whether one alone is as good.",
        )


def _recommend_text(facts: StudyFacts) -> Recommendation:
    if facts.text_encoder:
        chosen = ("model/text=auto", f"model.text.pretrained={quote_value(facts.text_encoder)}")
        return Recommendation(chosen, "A frozen pretrained encoder reads notes best, and no weight of it needs noise.")
    return Recommendation(
        ("model/text=ngrams",),
        "Without a pretrained encoder, hashed words are what a few hundred notes support.",
    )


def _recommend_image(facts: StudyFacts) -> Recommendation:
    if facts.image_encoder:
        chosen = ("model/image=pretrained", f"model.image.pretrained={quote_value(facts.image_encoder)}")
        return Recommendation(chosen, "Frozen features are computed once, and need no noise.")
    if facts.image_weights:
        chosen = ("model/image=mobilenet_v2", f"model.image.weights={quote_value(facts.image_weights)}")
        return Recommendation(chosen, "Frozen features are computed once, and need no noise.")
    if facts.epsilon is None and facts.patients * facts.sites < MANY_PATIENTS:
        return Recommendation(
            ("training/augmentation=medical",),
            "A network from scratch sees few images; small changes of them help. Pretrained weights help more.",
        )
    return Recommendation((), "A network from scratch is weak here: look for pretrained weights of an image encoder.")


def _recommend_privacy(facts: StudyFacts) -> Iterator[Recommendation]:
    if facts.epsilon is None:
        yield _recommend_rounds(facts)
        return
    yield Recommendation(
        ("privacy=patient", f"privacy.epsilon={facts.epsilon:g}", "specialized=generic_patient"),
        "Logistic regression from zero on frozen features: few weights need noise, and one step takes all patients.",
    )
    if facts.patients < FEW_PATIENTS and facts.epsilon < 8:
        yield Recommendation(
            (),
            f"With fewer than {FEW_PATIENTS} patients at a hospital, this epsilon leaves much noise. "
            "privacy.noise=shared (with method=fedsgd) divides it among the hospitals; see docs/privacy.md.",
        )


def _recommend_rounds(facts: StudyFacts) -> Recommendation:
    if facts.sites > 1 and _has_frozen_features(facts):
        return Recommendation(
            ("method=fedsgd", "strategy.rounds=300", "training.batch_size=256", "training.optimizer.lr=0.001"),
            "One step of all hospitals in a round: hospitals that differ pull the model apart in several steps of "
            "their own. Frozen features make a round short. The best round on the pooled validation rows is exported.",
        )
    return Recommendation(
        ("strategy.rounds=20", "strategy.patience=5"),
        "The best round on the pooled validation rows is exported; training ends when it gets no better.",
    )


def _has_frozen_features(facts: StudyFacts) -> bool:
    return "image" not in facts.modalities or bool(facts.image_encoder or facts.image_weights)


def _recommend_protection(facts: StudyFacts) -> Iterator[Recommendation]:
    if facts.sites < FEWEST_SITES:
        yield Recommendation(
            ("secagg=off",),
            "Secure aggregation needs three hospitals: the lead would see each update. Find another hospital.",
        )
