"""Detect label leakage: duplicate images, and reports whose words predict the label."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedhealth.utils.auroc import compute_auroc_from_counts
from fedhealth.utils.scripts import NO_BLANKS

SUSPICIOUS_AUROC = 0.95
_FOLDS, _FEWEST, _WORDS, _SHOWN = 5, 20, 20_000, 8
_WORD = re.compile(rf"(?=([{NO_BLANKS}]{{2}}))|((?:(?![{NO_BLANKS}])[^\W\d_]){{2,40}})")  # two characters are a word


@dataclass(frozen=True)
class TextLeakage:
    """How well the words of a report predict a label, for held-out patients.

    Attributes:
        auroc: of naive Bayes, cross-validated by patient; the mean of the folds, weighted by their pairs.
        words: the most predictive words.

    """

    auroc: float
    words: tuple[str, ...]


def measure_text_leakage(texts: Sequence[str], label: np.ndarray, patients: Sequence[str]) -> TextLeakage | None:
    """Predict a label from bags of words; return None if either class or the patients are too few.

    Args:
        texts: N reports, none empty.
        label: bool [N].
        patients: N codes; all reports of a patient are in the same fold.

    """
    if min(label.sum(), (~label).sum()) < _FEWEST:
        return None
    bags = [frozenset((match[1] or match[2]).lower() for match in _WORD.finditer(text)) for text in texts]
    counts = Counter(word for bag in bags for word in bag)
    words = {word: place for place, (word, _) in enumerate(counts.most_common(_WORDS))}
    places = [np.array(sorted(words[word] for word in bag if word in words), np.int64) for bag in bags]
    fold = np.array([hashlib.sha256(patient.encode()).digest()[0] % _FOLDS for patient in patients])
    won = pairs = 0.0
    for held_out in range(
        _FOLDS
    ):  # scores of different folds are not comparable: their priors differ, opposite to the label
        weights = _compute_word_weights(places, label, fold != held_out, len(words))
        rows = np.flatnonzero(fold == held_out)
        scores = np.array([weights[places[row]].sum() for row in rows.tolist()])
        count = float(label[rows].sum() * (~label[rows]).sum())
        won, pairs = won + (count * _compute_auroc(scores, label[rows]) if count else 0.0), pairs + count
    return TextLeakage(won / pairs, _select_top_words(places, label, list(words))) if pairs else None


def _compute_word_weights(places: Sequence[np.ndarray], label: np.ndarray, rows: np.ndarray, size: int) -> np.ndarray:
    """Return each word's log ratio of its frequencies in reports of the two classes (add-one smoothing)."""
    ratios = []
    for kind in (label, ~label):
        chosen = np.flatnonzero(rows & kind)
        held = [places[row] for row in chosen.tolist()]
        count = np.bincount(np.concatenate(held), minlength=size) if held else np.zeros(size)
        ratios.append(np.log((count + 1) / (len(chosen) + 2)))
    difference: np.ndarray = ratios[0] - ratios[1]
    return difference


def _select_top_words(places: Sequence[np.ndarray], label: np.ndarray, words: Sequence[str]) -> tuple[str, ...]:
    weights = _compute_word_weights(places, label, np.ones(len(label), bool), len(words))
    held = np.bincount(np.concatenate(places), minlength=len(words)) if len(words) else np.zeros(0)
    strength = np.abs(weights) * np.sqrt(held)
    return tuple(words[place] for place in np.argsort(-strength, kind="stable")[:_SHOWN])


def _compute_auroc(scores: np.ndarray, label: np.ndarray) -> float:
    """Compute the area under the ROC curve; ties count half."""
    distinct, index = np.unique(scores, return_inverse=True)
    positives, negatives = (np.bincount(index[rows], minlength=len(distinct)) for rows in (label, ~label))
    return float(compute_auroc_from_counts(positives, negatives))
