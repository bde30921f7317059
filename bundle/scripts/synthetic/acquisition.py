"""The acquisition of a slice's tissues: brightness, artefacts, and skull stripping."""

from __future__ import annotations

import math
from collections.abc import Mapping

import cv2
import numpy as np

from .brains import SliceFields
from .randomisation import Randomisation
from .tissues import TISSUES

RANDOM = "random"
"""Modality of a slice with arbitrary tissue brightness."""
# Brightness of TISSUES by modality as a share of the white level (the 99.5th percentile of a brain), near what real gliomas show.
LOOKS: dict[str, tuple[float, ...]] = {
    "FLAIR": (0.15, 0.59, 0.50, 0.95, 0.84, 0.60, 0.82, 0.30, 0.50, 0.88, 0.42, 0.62, 0.50, 0.40),
    "T1w": (0.18, 0.47, 0.82, 0.50, 0.34, 0.26, 0.42, 0.20, 0.85, 0.58, 0.65, 0.42, 0.70, 0.80),
    "T1wCE": (0.17, 0.44, 0.74, 0.45, 0.32, 0.23, 1.05, 0.20, 0.75, 0.54, 1.10, 0.95, 0.95, 0.80),
    "T2w": (0.82, 0.30, 0.20, 0.41, 0.48, 0.62, 0.42, 0.85, 0.20, 0.36, 0.14, 0.52, 0.22, 0.34),
}
# Standard deviation of the logarithm of each brightness from series to series.
SPREAD = (0.14, 0.07, 0.07, 0.13, 0.18, 0.28, 0.16, 0.25, 0.45, 0.15, 0.30, 0.25, 0.40, 0.40)
TEXTURE = {"FLAIR": -0.25, "T1w": 1.0, "T1wCE": 0.9, "T2w": -0.4}  # visibility of the map's own T1 texture


def draw_look(mri_type: str, rng: np.random.Generator) -> dict[str, float]:
    """Draw the brightness of each tissue in a series, as shares of the white level, and of ``texture``."""
    if mri_type == RANDOM:
        look = dict(zip(TISSUES, rng.uniform(0.05, 1, len(TISSUES)), strict=True))
        return look | {"texture": rng.uniform(-0.5, 1)}
    values = np.array(LOOKS[mri_type]) * np.exp(np.array(SPREAD) * rng.normal(size=len(TISSUES)))
    look = dict(zip(TISSUES, values, strict=True))
    # sequences differ most in the contrast of grey and white matter
    middle, contrast = (look["grey"] + look["white"]) / 2, rng.uniform(0.35, 1.25)
    for name in ("grey", "white"):
        look[name] = middle + contrast * (look[name] - middle)
    return look | {"texture": TEXTURE[mri_type] * contrast}


def paint(tissues: Mapping[str, np.ndarray], look: Mapping[str, float], rng: np.random.Generator) -> np.ndarray:
    """The slice (H, W) without artefacts, 1 at the white level."""
    solid = sum(look[name] * tissues[name] for name in ("grey", "white")) + look["texture"] * tissues["texture"]
    shade = 1 + rng.uniform(0, 0.06) * tissues["shades"]
    for name, (least, most) in (("nuclei", (-0.15, 0.15)), ("stem", (-0.12, 0.28))):
        shade = shade * (1 + rng.uniform(least, most) * tissues[name])
    image = look["csf"] * tissues["csf"] + solid * shade
    mottled = 1 + rng.uniform(0.02, 0.16) * tissues["mottle"]
    for name in TISSUES[3:]:
        weight = tissues[name] * (rng.uniform(0.6, 1) if name in ("oedema", "lesion") else 1)
        in_tumour = name in ("oedema", "tumour", "necrosis", "enhancing")
        image = image + weight * (look[name] * (mottled if in_tumour else 1) - image)
    return np.clip(image, 0, None).astype(np.float32)


def acquire(
    image: np.ndarray,
    pixel: tuple[float, float],
    blurred: tuple[float, float],
    ranges: Randomisation,
    rng: np.random.Generator,
) -> np.ndarray:
    """Blur, overshoot, ghosts, bias field, noise and gamma on a slice (H, W), 1 at the white level.

    ``pixel`` is the height and width of a pixel, ``blurred`` the standard deviation of the blur along rows' and columns' order, mm.
    """
    sigma = [side / step for side, step in zip(blurred, pixel, strict=True)]
    if max(sigma) > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), sigmaX=max(sigma[1], 1e-3), sigmaY=max(sigma[0], 1e-3))
    if rng.random() < ranges.sharpening:
        image = image + rng.uniform(0.2, 1.0) * (image - cv2.GaussianBlur(image, (0, 0), rng.uniform(0.6, 1.5)))
    if rng.random() < ranges.motion:
        axis, share = int(rng.integers(2)), rng.uniform(0.03, 0.15)
        for shift in (1, -1):
            image = (1 - share) * image + share * np.roll(
                image, shift * int(rng.integers(3, image.shape[axis] // 3)), axis
            )
    rows, columns = (np.arange(n) * step - n * step / 2 for n, step in zip(image.shape, pixel, strict=True))
    bias = SliceFields(rng, [rows, columns, np.zeros(1)], 2).draw(rng.uniform(60, 120))[..., 0]
    image = image * np.exp(rng.uniform(*ranges.bias) * bias)
    level = math.exp(rng.uniform(*np.log(np.maximum(ranges.noise, 1e-4))))
    real, imaginary = level * rng.standard_normal((2, *image.shape), dtype=np.float32)
    smooth = rng.uniform(0, 1.2)
    if smooth > 0.4:  # resampled images have correlated noise
        gain = 2 * math.sqrt(math.pi) * smooth
        real, imaginary = (cv2.GaussianBlur(part, (0, 0), smooth) * gain for part in (real, imaginary))
    image = np.hypot(image + real, imaginary)
    return image ** math.exp(rng.uniform(*np.log(ranges.gamma)))


def strip(tissues: Mapping[str, np.ndarray], ranges: Randomisation, rng: np.random.Generator) -> np.ndarray:
    """The region left by skull stripping, (H, W) of bool."""
    cut = rng.uniform(*ranges.stripping) + rng.uniform(0, 0.8) * tissues["patches"]
    if rng.random() < ranges.leftovers:
        cut = np.where(tissues["patches"] * rng.choice([-1, 1]) > rng.uniform(0.6, 1.6), -rng.uniform(3, 9), cut)
    kept = tissues["depth"] > cut
    if rng.random() < ranges.no_cerebellum:
        rest = kept & (tissues["low"] + 6 * tissues["patches"] > rng.uniform(-25, 10))
        if rest.sum() > 0.2 * kept.sum():  # a low slice stays as it is
            kept = rest
    return kept
