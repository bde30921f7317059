"""Drawn patients: labels and probabilities, for the tests of scores."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

EXAMPLES = settings(deadline=None, max_examples=50)

PATIENTS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20)), min_size=2, max_size=40)
BOTH_LABELS = PATIENTS.filter(lambda rows: len({label for label, _ in rows}) == 2)


def columns(rows):
    return [label for label, _ in rows], [value / 20 for _, value in rows]


def cohort(n, seed=0, shift=1.0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    return labels, 1 / (1 + np.exp(-rng.normal(labels * shift, 1.0)))
