"""Heads for tests: a skull around a phantom's brain, and a patient's series."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Head:
    """Volumes and affines by modality, and the brain's masks on their grids."""

    series: dict
    masks: dict


def with_skull(brain, spacing=2.0, fat=1.0, noise=0.0, seed=0):
    """A phantom's volume with fluid, bone and scalp around its brain, and the noise of air."""
    from scipy import ndimage

    white = np.percentile(brain[brain > 0], 99)
    far = ndimage.distance_transform_edt(brain == 0) * spacing
    rng = np.random.default_rng(seed)
    head = brain.copy()
    for inner, outer, level in ((0, 2, 0.25), (2, 8, 0.05), (8, 14, fat)):  # mm, mm, share of the white level
        head[(far > inner) & (far <= outer)] = level * white
    level = noise * white
    return np.hypot(head + level * rng.standard_normal(head.shape), level * rng.standard_normal(head.shape)).astype(
        "f4"
    )
