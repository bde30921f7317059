"""Synthetic glioma patients, and the series that a scanner would acquire of them.

A phantom is the MNI152 average brain (shipped inside nilearn), deformed per patient, given a contrast per modality,
with a tumour grown in it. Its "MGMT label" is **made up**: it changes the tumour's look by an amount the user chooses,
has no biological meaning, and says nothing about how well MGMT status can be read from real MRI.
:mod:`scripts.synthetic.cohort` writes them as files.

Atlas: Fonov et al., NeuroImage 54 (2011), ICBM 2009a nonlinear symmetric.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from custom_transforms.planes import DISPLAY_AXCODES

from .brains import Atlas, RandomFields, between, load_atlas, rotation, sample_atlas, soft_step

__all__ = ["MRI_TYPES", "PhantomPatient", "PhantomSeries", "make_patient", "make_series"]

# Challenge name -> BraTS 2021 file name.
MRI_TYPES = {"FLAIR": "flair", "T1w": "t1", "T1wCE": "t1ce", "T2w": "t2"}
FIELD_OF_VIEW = (240.0, 240.0, 155.0)  # mm, as BraTS
SMALLEST_FIELD_OF_VIEW = (165.0, 200.0, 150.0)  # mm, holds the largest brain that is drawn


# Brightness as a share of the white level (about the 99.5th percentile of the volume), near that measured on a real glioma. Pairs are
# for (label 0, label 1) when the signal is full, on both sides of what was measured. Texture scales the template's own T1 texture.
TISSUES = ("csf", "grey", "white", "texture", "vessels", "oedema", "enhancing", "necrosis")


CONTRASTS: dict[str, tuple[float | tuple[float, float], ...]] = {
    "FLAIR": (0.14, 0.59, 0.50, -0.3, 0.35, (0.76, 0.94), (0.66, 0.82), (0.26, 0.62)),
    "T1w": (0.17, 0.48, 0.78, 1.3, 0.85, (0.44, 0.54), (0.36, 0.50), (0.16, 0.36)),
    "T1wCE": (0.17, 0.46, 0.68, 1.3, 1.15, (0.42, 0.48), (0.82, 1.08), (0.13, 0.44)),
    "T2w": (0.86, 0.34, 0.22, -0.4, 0.30, (0.46, 0.62), (0.40, 0.54), (0.95, 0.58)),
}


# Thickness of the enhancing rim as a fraction of the core's radius at (label 0, label 1): a thin ring, a solid lump.
RIM_FRACTION = (0.25, 0.65)


@dataclass(frozen=True)
class PhantomPatient:
    """One synthetic patient on one grid, the four modalities registered."""

    number: int  # patient number, unique in a cohort
    label: int  # made-up MGMT value, 0 or 1
    # modality name -> float32 (X, Y, Z) in arbitrary scanner units, index order LPS, 0 outside the brain
    volumes: dict[str, np.ndarray]
    seg: np.ndarray  # uint8 (X, Y, Z) BraTS labels: 1 necrotic core, 2 oedema, 4 enhancing tumour
    affine: np.ndarray  # (4, 4) voxel index -> RAS world in mm, diag(-s, -s, s) and a translation


@dataclass(frozen=True)
class PhantomSeries:
    """One modality as a scanner stores it: square slices in one plane."""

    image: np.ndarray  # uint16 (columns, rows, slices), slices ordered along the slice normal
    mask: np.ndarray  # uint8, same shape: 1 tumour that does not enhance, 2 enhancing tumour
    affine: np.ndarray  # (4, 4) voxel index -> RAS world in mm


def grid(spacing: float, shape: Sequence[int] | None) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine of an LPS grid centred on the brain."""
    if spacing <= 0:
        raise ValueError(f"spacing {spacing}: expected the side of a voxel in mm, above 0")
    size = tuple(shape) if shape is not None else tuple(round(extent / spacing) for extent in FIELD_OF_VIEW)
    if len(size) != 3 or any(n * spacing < least for n, least in zip(size, SMALLEST_FIELD_OF_VIEW, strict=True)):
        raise ValueError(
            f"shape {size} at {spacing} mm does not hold a head: expected a field of view of at least {SMALLEST_FIELD_OF_VIEW} mm; "
            "give more voxels, or no shape"
        )
    affine = np.diag([-spacing, -spacing, spacing, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(size) - 1) / 2)
    return size, affine


def check_signal(signal: float) -> None:
    if not 0 <= signal <= 1:
        raise ValueError(f"signal {signal}: expected 0 (none) to 1 (plain to see)")


def check_thickness(thickness: float, spacing: float) -> None:
    if thickness < spacing:
        raise ValueError(f"slice_thickness {thickness} mm: expected at least the side of a voxel, {spacing} mm")


def make_patient(
    number: int,
    label: int,
    signal: float = 1.0,
    seed: int = 67,
    spacing: float = 2.0,
    shape: Sequence[int] | None = None,
) -> PhantomPatient:
    """Draw one synthetic patient; the same arguments give the same voxels.

    Everything random comes from (seed, number) and is drawn alike for both labels. The label moves the tumour's traits
    (thickness of the enhancing rim, intensities of necrosis, rim and oedema) from the middle towards its own end by
    `signal`: at 0 the label changes nothing at all.

    Args:
        number: patient number.
        label: made-up MGMT value, 0 or 1, without biological meaning.
        signal: strength of the label in the image, 0 (none) to 1 (plain to see).
        seed: seed of the cohort.
        spacing: voxel side in mm.
        shape: voxels per axis; None means the 240 x 240 x 155 mm of BraTS.

    Raises:
        ValueError: for a label, signal, spacing or shape out of range.
        ImportError: when nilearn is not installed.
    """
    if label not in (0, 1):
        raise ValueError(f"label {label}: expected 0 or 1")
    check_signal(signal)
    size, affine = grid(spacing, shape)
    atlas = load_atlas()
    rng = np.random.default_rng([seed, number])
    trait = 0.5 + signal * (label - 0.5)
    axes = [np.arange(n) * affine[a, a] + affine[a, 3] for a, n in enumerate(size)]
    random_fields = RandomFields(rng, axes)
    points = _deformed(atlas, axes, rng, random_fields)
    core_radius, side, radius = _place_tumour(atlas, points, rng)

    grey, white, texture, depth = sample_atlas(atlas, points)
    brain = depth > 0.5
    # The template is an average of 152 brains; without sharpening its sulci are a haze.
    csf = np.clip(1 - grey - white, 0, 1)
    tissues = np.stack([csf, grey, white]) ** 1.6
    csf, grey, white = tissues / np.maximum(tissues.sum(0), 1e-6)

    inside = soft_step(np.minimum(depth - 3, side * points[0] - 2), 1.5)
    shares = _tumour_shares(core_radius, radius, inside, csf, white, trait, rng, random_fields)
    seg = np.zeros(size, np.uint8)
    for value, name in ((2, "oedema"), (4, "enhancing"), (1, "necrosis")):
        seg[shares[name] > 0.5] = value
    # Vessels run in the outer fluid; they keep "brightest in T1wCE" from meaning "tumour".
    in_vessels = np.clip(random_fields.draw(6) - 1.2, 0, 1) * csf * soft_step(8 - depth, 3)
    normal = {"csf": csf, "grey": grey, "white": white, "texture": texture}
    volumes = _painted(normal, in_vessels, shares, trait, rng, random_fields)
    # Voxel noise comes last: everything drawn before is the same at every voxel size.
    volumes = {mri_type: _acquired(volume, brain, rng) for mri_type, volume in volumes.items()}
    return PhantomPatient(number, label, volumes, seg * brain, affine)


def _painted(
    tissues: Mapping[str, np.ndarray],
    in_vessels: np.ndarray,
    shares: Mapping[str, np.ndarray],
    trait: float,
    rng: np.random.Generator,
    random_fields: RandomFields,
) -> dict[str, np.ndarray]:
    """The four volumes without noise: tissues added up, vessels and then the tumour's ``shares`` laid over them."""
    mottle = random_fields.draw(7)
    volumes = {}
    for mri_type, contrast in CONTRASTS.items():
        values = [between(value, trait) if isinstance(value, tuple) else value for value in contrast]
        drawn = {name: value * math.exp(rng.normal(0, 0.04)) for name, value in zip(TISSUES, values, strict=True)}
        volume = np.asarray(sum(drawn[name] * tissue for name, tissue in tissues.items()))
        volume += in_vessels * (drawn["vessels"] - volume)
        for name, share in shares.items():
            volume += share * (drawn[name] * (1 + 0.08 * mottle) - volume)
        volumes[mri_type] = volume * np.exp(0.06 * random_fields.draw(90))
    return volumes


def _deformed(
    atlas: Atlas, axes: Sequence[np.ndarray], rng: np.random.Generator, random_fields: RandomFields
) -> np.ndarray:
    """Where in the atlas each voxel comes from, ``(3, X, Y, Z)`` mm."""
    # The MNI152 average is larger than most brains, and would not fit into 155 mm.
    scale = rng.uniform(0.89, 0.97, 3)
    matrix = rotation(rng.uniform(-5, 5, 3)) / scale[:, None]
    shift = rng.uniform(-3, 3, 3)
    middle = atlas.affine[:3, :3] @ ((np.array(atlas.channels.shape[1:]) - 1) / 2) + atlas.affine[:3, 3]
    voxels = np.stack(np.meshgrid(*[axis.astype(np.float32) for axis in axes], indexing="ij"))
    points = np.tensordot(matrix.astype(np.float32), voxels, axes=1)
    for axis in range(3):
        points[axis] += (middle[axis] + shift[axis]) + 3.0 * random_fields.draw(36) + 1.0 * random_fields.draw(12)
    return points


def _place_tumour(atlas: Atlas, points: np.ndarray, rng: np.random.Generator) -> tuple[float, float, np.ndarray]:
    """A noisy ellipsoid about a site deep enough in one hemisphere; it pushes the tissue in ``points`` outwards, in place.

    Returns:
        Radius of the core, mm of the atlas; the side, -1 or 1; the distance of each voxel from the centre ``(X, Y, Z)``, in
        the ellipsoid's measure.
    """
    core_radius = rng.uniform(12.0, 17.0)
    sites = atlas.sites[atlas.sites[:, 3] >= core_radius + 3]
    centre = sites[int(rng.random() * len(sites)), :3]
    stretch = np.exp(rng.uniform(-0.2, 0.2, 3))
    ellipsoid = (rotation(rng.uniform(0, 180, 3)) * stretch[:, None] / np.cbrt(stretch.prod())).astype(np.float32)
    offset = points - centre[:, None, None, None].astype(np.float32)
    radius = np.sqrt((np.tensordot(ellipsoid, offset, axes=1) ** 2).sum(0))
    push = rng.uniform(0.2, 0.4)
    points -= push * offset * np.exp(-((radius / (1.6 * core_radius)) ** 2))
    return core_radius, np.sign(centre[0]), radius


def _tumour_shares(
    core_radius: float,
    radius: np.ndarray,
    inside: np.ndarray,
    csf: np.ndarray,
    white: np.ndarray,
    trait: float,
    rng: np.random.Generator,
    random_fields: RandomFields,
) -> dict[str, np.ndarray]:
    """Weights ``(X, Y, Z)`` of the tumour's tissues, to be laid over each other in this order."""
    core_edge = core_radius * (1 + np.clip(0.17 * random_fields.draw(11), -0.35, 0.25))
    rim = between(RIM_FRACTION, trait) + rng.normal(0, 0.02)
    necrosis_edge = core_edge * (1 - rim * np.clip(1 + 0.15 * random_fields.draw(9), 0.7, 1.3))
    reach = rng.uniform(7, 12)
    oedema_edge = core_edge + reach * (0.15 + 0.85 * white) * np.clip(0.9 + 0.5 * random_fields.draw(14), 0.15, 1.3)
    return {
        "oedema": soft_step(oedema_edge - radius, 3) * inside * (1 - csf),
        "enhancing": soft_step(core_edge - radius, 1.5) * inside,
        "necrosis": soft_step(necrosis_edge - radius, 1.5) * inside,
    }


def _acquired(volume: np.ndarray, brain: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A volume with Rician noise, in scanner units, 0 outside the brain."""
    level = rng.uniform(0.012, 0.025)
    gain = rng.uniform(250, 1200)
    real, imaginary = level * rng.standard_normal((2, *volume.shape), dtype=np.float32)
    rician = np.sqrt((volume + real) ** 2 + imaginary**2)
    return (np.where(brain, rician, 0) * gain).astype(np.float32)


def make_series(
    volume: np.ndarray, seg: np.ndarray, affine: np.ndarray, plane: str = "axial", slice_thickness: float | None = None
) -> PhantomSeries:
    """Cut a patient's volume into the slices of one series, without gaps.

    Thick slices average over their thickness, so small parts blur as on a scanner; a mask voxel takes the label that
    fills more than half of it.

    Args:
        volume: (X, Y, Z), scanner units.
        seg: (X, Y, Z), BraTS labels 1, 2, 4.
        affine: (4, 4) of both, RAS mm.
        plane: axial, coronal or sagittal.
        slice_thickness: mm, at least the voxel side, which is the default.

    Raises:
        ValueError: for another plane, or slices thinner than a voxel.
    """
    if plane not in DISPLAY_AXCODES:
        raise ValueError(f"plane {plane!r}: expected one of {', '.join(DISPLAY_AXCODES)}")
    spacing = float(np.abs(np.diag(affine)[:3]).min())
    thickness = spacing if slice_thickness is None else float(slice_thickness)
    check_thickness(thickness, spacing)
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(DISPLAY_AXCODES[plane])
    )
    channels = [
        nib.orientations.apply_orientation(array, turn)
        for array in (volume, (seg > 0).astype(np.float32), (seg == 4).astype(np.float32))
    ]
    series_affine = affine @ nib.orientations.inv_ornt_aff(turn, volume.shape)

    # Scanners store square slices.
    columns, rows, depth = channels[0].shape
    missing = [max(rows, columns) - n for n in (columns, rows)]
    pad = [(n // 2, n - n // 2) for n in missing]
    series_affine = series_affine @ _translation(-pad[0][0], -pad[1][0], 0)
    channels = [np.pad(array, (*pad, (0, 0))) for array in channels]

    # Slices lie symmetrically about the middle of the volume; weights (slices, voxels) are shares of a slice.
    slices = math.ceil(depth * spacing / thickness - 1e-6)
    starts = (depth - slices * thickness / spacing) / 2 + np.arange(slices) * thickness / spacing
    ends = starts + thickness / spacing
    edges = np.arange(depth)
    weights = np.clip(np.minimum(ends[:, None], edges + 1) - np.maximum(starts[:, None], edges), 0, None)
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    image, tumour, enhancing = (array @ weights.T for array in channels)
    # Index k stands for the middle of slice k.
    series_affine = series_affine @ _translation(0, 0, starts[0] + thickness / spacing / 2 - 0.5)
    series_affine[:3, 2] *= thickness / spacing

    mask = (tumour > 0.5).astype(np.uint8) + ((tumour > 0.5) & (enhancing > 0.5))
    return PhantomSeries(np.rint(image).astype(np.uint16), mask.astype(np.uint8), series_affine)


def _translation(i: float, j: float, k: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = i, j, k
    return matrix
