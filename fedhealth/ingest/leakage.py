"""What makes a result too good to be true: the same image twice, and reports that tell the label."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

SUSPICIOUS_AUROC = 0.95
_FOLDS, _FEWEST, _WORDS, _SHOWN = 5, 20, 20_000, 8
_WORD = re.compile(r"[^\W\d_]{2,40}")


@dataclass(frozen=True)
class Duplicates:
    """Images that are stored more than once.

    Attributes:
        images: how many there are beside the first of each.
        across_patients: groups whose images belong to several patients.
        across_splits: groups whose images lie in several splits.

    """

    images: int
    across_patients: int
    across_splits: int


@dataclass(frozen=True)
class Wordy:
    """How well the words of a report alone tell a label, in patients that the words were not taken from.

    Attributes:
        auroc: of naive Bayes, cross-validated by patient; the mean of the folds, weighted by their pairs.
        words: the words that tell most.

    """

    auroc: float
    words: tuple[str, ...]


def duplicates(images: Iterable[tuple[str, str, str]]) -> Duplicates:
    """Count equal images.

    Args:
        images: (digest of the pixels, patient, split) of each.

    """
    patients, splits, counts = defaultdict(set), defaultdict(set), Counter[str]()
    for digest, patient, split in images:
        patients[digest].add(patient)
        splits[digest].add(split)
        counts[digest] += 1
    return Duplicates(
        sum(count - 1 for count in counts.values()),
        sum(len(each) > 1 for each in patients.values()),
        sum(len(each) > 1 for each in splits.values()),
    )


def words_tell(texts: Sequence[str], label: np.ndarray, patients: Sequence[str]) -> Wordy | None:
    """Predict a label from bags of words; None where there are too few reports of both kinds, or too few patients.

    Args:
        texts: N reports, none empty.
        label: bool [N].
        patients: N codes; all reports of one are in the same fold.

    """
    if min(label.sum(), (~label).sum()) < _FEWEST:
        return None
    bags = [frozenset(word.lower() for word in _WORD.findall(text)) for text in texts]
    counts = Counter(word for bag in bags for word in bag)
    words = {word: place for place, (word, _) in enumerate(counts.most_common(_WORDS))}
    places = [np.array(sorted(words[word] for word in bag if word in words), np.int64) for bag in bags]
    fold = np.array([hashlib.sha256(patient.encode()).digest()[0] % _FOLDS for patient in patients])
    won = pairs = 0.0
    for held_out in range(_FOLDS):  # scores of two folds do not compare: their priors differ, against the label
        weights = _weights(places, label, fold != held_out, len(words))
        rows = np.flatnonzero(fold == held_out)
        scores = np.array([weights[places[row]].sum() for row in rows.tolist()])
        count = float(label[rows].sum() * (~label[rows]).sum())
        won, pairs = won + (count * _auroc(scores, label[rows]) if count else 0.0), pairs + count
    return Wordy(won / pairs, _telling(places, label, list(words))) if pairs else None


def _weights(places: Sequence[np.ndarray], label: np.ndarray, rows: np.ndarray, size: int) -> np.ndarray:
    """Return each word's log ratio of how often reports of either kind hold it (add-one smoothing)."""
    ratios = []
    for kind in (label, ~label):
        chosen = np.flatnonzero(rows & kind)
        held = [places[row] for row in chosen.tolist()]
        count = np.bincount(np.concatenate(held), minlength=size) if held else np.zeros(size)
        ratios.append(np.log((count + 1) / (len(chosen) + 2)))
    difference: np.ndarray = ratios[0] - ratios[1]
    return difference


def _telling(places: Sequence[np.ndarray], label: np.ndarray, words: Sequence[str]) -> tuple[str, ...]:
    weights = _weights(places, label, np.ones(len(label), bool), len(words))
    held = np.bincount(np.concatenate(places), minlength=len(words)) if len(words) else np.zeros(0)
    strength = np.abs(weights) * np.sqrt(held)
    return tuple(words[place] for place in np.argsort(-strength, kind="stable")[:_SHOWN])


def _auroc(scores: np.ndarray, label: np.ndarray) -> float:
    """Return the area under the curve by ranks; ties count half."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positives, negatives = int(label.sum()), int((~label).sum())
    return float((ranks[label].sum() - positives * (positives + 1) / 2) / (positives * negatives))
