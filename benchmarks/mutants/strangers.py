"""Bugs that somebody planted who had not read the audit."""

from __future__ import annotations

from benchmarks.mutants.books import BOOKS
from benchmarks.mutants.clipping import CLIPPING
from benchmarks.mutants.noise import NOISE
from benchmarks.mutants.sampling import SAMPLING
from benchmarks.mutants.steps import STEPS

STRANGERS = SAMPLING | CLIPPING | NOISE | STEPS | BOOKS
"""Planter, and settings of the trainer, by name."""
