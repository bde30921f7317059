"""The sources of synthetic images: the average brain or label maps, smooth random fields, and geometry.

Atlas: Fonov et al., NeuroImage 54 (2011), ICBM 2009a nonlinear symmetric, as carried by nilearn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

LATTICE_EXTENT = 256.0  # mm, side of the cube the random fields are defined on


@dataclass(frozen=True)
class Atlas:
    """The average brain."""

    channels: torch.Tensor  # (4, X, Y, Z) grey matter, white matter, T1 texture, depth under the brain's surface in mm
    affine: np.ndarray  # (4, 4) voxel index -> MNI152 RAS mm
    sites: np.ndarray  # (N, 4) where a tumour may start: x, y, z and depth in the hemisphere, mm


@lru_cache(maxsize=1)
def load_atlas() -> Atlas:
    """Read the MNI152 template and tissue maps that nilearn carries (1 mm, no download).

    Raises:
        ImportError: nilearn is not installed.
    """
    try:
        from nilearn import datasets
        from scipy import ndimage  # a requirement of nilearn
    except ImportError as error:
        raise ImportError(
            "Synthetic brains are made from the atlas in nilearn: pip install 'brats-mri-radiogenomics[phantom]'"
        ) from error
    template = datasets.load_mni152_template(resolution=1)
    t1 = template.get_fdata(dtype=np.float32)
    mask = datasets.load_mni152_brain_mask(resolution=1).get_fdata() > 0
    components, _ = ndimage.label(mask)
    # the template shows a scrap of the olfactory bulbs apart from the brain
    mask = components == np.bincount(components.ravel())[1:].argmax() + 1
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    box = tuple(slice(max(edge.start - 2, 0), edge.stop + 2) for edge in box)
    mask, t1 = mask[box], t1[box]
    grey = datasets.load_mni152_gm_template(resolution=1).get_fdata(dtype=np.float32)[box] * mask
    white = datasets.load_mni152_wm_template(resolution=1).get_fdata(dtype=np.float32)[box] * mask
    csf = np.clip(1 - grey - white, 0, 1)
    mean = [float((t1 * tissue)[mask].sum() / tissue[mask].sum()) for tissue in (csf, grey, white)]
    texture = (t1 - mean[0] * csf - mean[1] * grey - mean[2] * white) * mask
    depth = ndimage.distance_transform_edt(mask).astype(np.float32)
    affine = template.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [edge.start for edge in box]

    # A tumour starts in the white matter of one cerebral hemisphere, above the brain stem.
    indices = np.argwhere(white[::3, ::3, ::3] > 0.5) * 3
    world = indices @ affine[:3, :3].T + affine[:3, 3]
    depth_in_hemisphere = np.minimum(depth[tuple(indices.T)], np.abs(world[:, 0]))
    sites = np.column_stack([world, depth_in_hemisphere])[(world[:, 2] > 2) & (world[:, 2] < 50)]
    channels = torch.from_numpy(np.stack([grey, white, texture, depth]).astype(np.float32))
    return Atlas(channels, affine, sites.astype(np.float32))


def sample_atlas(atlas: Atlas, points: np.ndarray) -> np.ndarray:
    """Trilinear values (4, X, Y, Z) of the atlas at points (3, X, Y, Z), RAS mm; 0 outside."""
    sizes = atlas.channels.shape[1:]
    step = np.diag(atlas.affine)[:3]
    normalised = [2 * (points[a] - atlas.affine[a, 3]) / (step[a] * (sizes[a] - 1)) - 1 for a in range(3)]
    return _sampled(atlas.channels, normalised, "zeros")


def _sampled(block: torch.Tensor, normalised: Sequence[np.ndarray], outside: str) -> np.ndarray:
    """Trilinear values of a block (C, X, Y, Z) at coordinates along its three axes, -1 ... 1 from its first to its last voxel."""
    # grid_sample wants the last image axis first
    grid = torch.from_numpy(np.stack(normalised[::-1], axis=-1).astype(np.float32, copy=False))
    found = torch.nn.functional.grid_sample(block[None], grid[None], align_corners=True, padding_mode=outside)
    return found[0].numpy()


class RandomFields:
    """Smooth random fields of unit variance on a grid: cubic B-splines over a lattice of normal coefficients.

    The lattice is fixed in mm, so that a patient is the same at every voxel size (free-form deformation: Rueckert et
    al., IEEE TMI 18, 1999). ``axes`` are the voxel centres along each, in mm from the centre of the field of view.
    """

    def __init__(self, rng: np.random.Generator, axes: Sequence[np.ndarray]) -> None:
        self.rng = rng
        self.axes = axes

    def draw(self, lattice: float) -> np.ndarray:
        """A float32 field (X, Y, Z) that varies over about `lattice` mm."""
        field = self._coefficients(lattice)
        for positions in self.axes:
            first, weights = _spline(positions, lattice)
            basis = np.zeros((len(positions), len(field)), np.float32)
            for k in range(4):
                basis[np.arange(len(positions)), first + k] = weights[k]
            # contracts the first axis and appends the new one: after three turns the order is X, Y, Z again
            field = np.tensordot(field, basis / np.float32(_SPREAD), axes=(0, 1))
        return field

    def _coefficients(self, lattice: float) -> np.ndarray:
        size = _lattice_size(lattice)
        return self.rng.standard_normal((size, size, size), dtype=np.float32)


_SPREAD = math.sqrt(151 / 315)
"""Standard deviation along one axis of a spline of unit coefficients: 151/315 is the mean of the squared weights' sum."""


def _lattice_size(lattice: float) -> int:
    return math.ceil(LATTICE_EXTENT / lattice) + 4


def _spline(positions: np.ndarray, lattice: float) -> tuple[np.ndarray, np.ndarray]:
    """Number of the first of the four coefficients at each position, and the weights of the four (4, N)."""
    knots = np.clip((positions + LATTICE_EXTENT / 2) / lattice, 0, _lattice_size(lattice) - 4)
    first = np.floor(knots).astype(int)
    t = knots - first
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    return first, weights


class SliceFields(RandomFields):
    """The same fields on the grid of a slice, to rounding: fast there, and without the threads of a linear algebra library.

    Those of several processes would wait for each other, and their number could change the last digit. ``normal`` is the
    number of the axis along the slice's normal, which has few voxels.
    """

    def __init__(self, rng: np.random.Generator, axes: Sequence[np.ndarray], normal: int) -> None:
        super().__init__(rng, axes)
        self.normal = normal

    def draw(self, lattice: float) -> np.ndarray:
        """A float32 field (X, Y, Z) that varies over about `lattice` mm."""
        field = self._coefficients(lattice)
        for axis in sorted(range(3), key=lambda axis: axis != self.normal):
            first, weights = _spline(self.axes[axis], lattice)
            weights = (weights / _SPREAD).astype(np.float32)
            shape = [-1 if other == axis else 1 for other in range(3)]
            field = sum(np.take(field, first + k, axis=axis) * weights[k].reshape(shape) for k in range(4))
        return field


def soft_step(distance: np.ndarray, width: float) -> np.ndarray:
    """0 ... 1 over about `width` mm around distance 0: the partial volume of a border."""
    return 1 / (1 + np.exp(np.clip(-4 * distance / width, -30, 30)))


def between(pair: Sequence[float], share: float) -> float:
    """The first of a pair where the share is 0, the second where it is 1."""
    return pair[0] + share * (pair[1] - pair[0])


def rotation(degrees: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) about the x, then y, then z axis."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        turn = np.eye(3)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn[i, i] = turn[j, j] = math.cos(angle)
        turn[j, i], turn[i, j] = math.sin(angle), -math.sin(angle)
        matrix = turn @ matrix
    return matrix


# ---------------------------------------------------------------------------------------------------------------------
# maps to cut slices from


CHANNELS = ("grey", "white", "texture", "depth", "ventricle", "ventricle_distance", "folds")
"""Of a :class:`BrainMap`, in this order."""
MARGIN = 14  # mm around the brain in its map: room for remnants of skull stripping
LABEL_VALUES: dict[str, tuple[int, ...]] = {
    "grey": (3, 8, *range(10, 14), 17, 18, 26, 42, 47, *range(49, 55), 58, *range(1001, 1036), *range(2001, 2036)),
    "white": (2, 7, 16, 28, 41, 46, 60, 77, 85, *range(251, 256)),
    "csf": (24, 30, 62),
    "ventricles": (4, 5, 14, 15, 31, 43, 44, 63, 72),
    "background": (0,),
}
"""Tissues by value of FreeSurfer's and SynthSeg's label maps; vessels count as CSF, choroid plexus as ventricle."""


@dataclass(frozen=True)
class BrainMap:
    """A brain's tissues, for sampling anywhere."""

    # (C, X, Y, Z) float32 in RAS order, the channels of ``CHANNELS``: share of grey and white matter, T1 texture, depth under
    # the brain's surface (mm, negative outside), share of ventricle, distance from the ventricles (mm), and where the
    # cerebrum's folds are, 0 to 1
    channels: torch.Tensor
    origin: np.ndarray  # (3,) mm from the middle of the brain to the first voxel
    step: np.ndarray  # (3,) sides of a voxel, mm
    extent: np.ndarray  # (3,) half the brain's extent, mm
    sites: np.ndarray  # (N, 4) where a tumour may start: x, y, z from the middle and depth in the hemisphere, mm

    def sample(self, points: np.ndarray) -> np.ndarray:
        """Trilinear values (C, ...) at points (3, X, Y, Z), mm from the middle of the brain; those at the border outside."""
        index = (points - self.origin[:, None, None, None]) / self.step[:, None, None, None]
        return sample_block(self.channels, index)


def sample_block(block: torch.Tensor, index: np.ndarray) -> np.ndarray:
    """Trilinear values (C, ...) of a block (C, X, Y, Z) at voxel indices (3, A, B, C); those at the border outside."""
    return _sampled(block, [index[a] * (2 / (size - 1)) - 1 for a, size in enumerate(block.shape[1:])], "border")


@lru_cache(maxsize=1)
def average_brain() -> BrainMap:
    """The map of the atlas, see :func:`load_atlas`."""
    atlas = load_atlas()
    from scipy import ndimage

    grey, white, texture, depth = atlas.channels.numpy()
    brain = filled(depth > 0)  # the mask that comes with the template has holes at the ventricles
    csf = np.clip(1 - grey - white, 0, 1) * brain
    # apart from the cisterns and the depths of the sulci, fluid so deep is in a ventricle
    found, _ = ndimage.label((csf > 0.5) & ndimage.binary_erosion(brain, iterations=14))
    sizes = np.bincount(found.ravel())
    large = np.flatnonzero(sizes > 1000)[1:]  # the first is everything but fluid
    middles = np.array(ndimage.center_of_mass(csf, found, large))[:, 0] - grey.shape[0] / 2
    ventricles = ndimage.binary_dilation(np.isin(found, large[np.abs(middles) < 30]), iterations=2)
    return brain_map(grey, white, csf * ventricles, brain, np.diag(atlas.affine)[:3], texture)


def filled(mask: np.ndarray) -> np.ndarray:
    """A mask (X, Y, Z) with holes filled, even those open through a narrow gap."""
    from scipy import ndimage

    closed = ndimage.binary_closing(np.pad(mask, 6), iterations=5)[6:-6, 6:-6, 6:-6]
    return mask | ndimage.binary_erosion(ndimage.binary_fill_holes(closed), iterations=3)


def brain_map(
    grey: np.ndarray,
    white: np.ndarray,
    ventricles: np.ndarray,
    brain: np.ndarray,
    step: Sequence[float] | np.ndarray,
    texture: np.ndarray | None = None,
) -> BrainMap:
    """The map of a brain from tissues (X, Y, Z) in RAS order.

    Args:
        grey: share of grey matter.
        white: share of white matter.
        ventricles: share of ventricle.
        brain: where the brain is, CSF included.
        step: sides of a voxel, mm.
        texture: of a T1 image beyond its tissues, if known.
    """
    from scipy import ndimage

    step = np.asarray(step, float)
    box = ndimage.find_objects(brain.astype(np.uint8))[0]
    box_size = np.array([side.stop - side.start for side in box])
    margin = np.ceil(MARGIN / step).astype(int)

    def placed(array: np.ndarray) -> np.ndarray:
        return np.pad(array[box].astype(np.float32), [(n, n) for n in margin])

    grey, white, ventricles, brain = placed(grey), placed(white), placed(ventricles), placed(brain) > 0
    texture = np.zeros_like(grey) if texture is None else placed(texture)
    inner, outer = (ndimage.distance_transform_edt(mask, sampling=step).astype(np.float32) for mask in (brain, ~brain))
    depth = np.where(brain, inner, -outer)
    from_ventricles = ndimage.distance_transform_edt(ventricles < 0.5, sampling=step).astype(np.float32)
    extent = box_size * step / 2
    origin = -(np.array(grey.shape) - 1) * step / 2
    lines = [origin[a] + np.arange(n) * step[a] for a, n in enumerate(grey.shape)]
    x, y, z = np.meshgrid(*lines, indexing="ij", sparse=True)
    # folds lie in the cerebrum's outer shell; cerebellum and brain stem are what is behind and low
    low = (z < -0.3 * extent[2] + 0.12 * y) & (y < 0.1 * extent[1])
    # nor do they reach the deep grey nuclei near the base of the brain
    from_nuclei = np.sqrt(
        (x / 0.45 / extent[0]) ** 2 + ((y - 5) / 0.5 / extent[1]) ** 2 + ((z + 5) / 0.4 / extent[2]) ** 2
    )
    shell = (
        np.clip((26 - depth) / 6, 0, 1)
        * np.clip((from_ventricles - 6) / 8, 0, 1)
        * np.clip(5 * (from_nuclei - 1), 0, 1)
    )
    folds = ndimage.gaussian_filter(shell * ~low * brain, 1.5 / step)

    places = np.argwhere((white > 0.5)[::3, ::3, ::3]) * 3
    world = places * step + origin
    in_hemisphere = np.minimum(depth[tuple(places.T)], np.abs(world[:, 0]))
    above_stem = (world[:, 2] > -0.1 * extent[2]) & (world[:, 2] < 0.65 * extent[2])
    sites = np.column_stack([world, in_hemisphere])[above_stem]
    stacked = np.stack([grey, white, texture, depth, ventricles, np.minimum(from_ventricles, 60), folds])
    channels = torch.from_numpy(stacked.astype(np.float32))[None]
    # a voxel's channels are contiguous: sampling then takes half the time
    channels = channels.contiguous(memory_format=torch.channels_last_3d)[0]
    return BrainMap(channels, origin.astype(np.float32), step.astype(np.float32), extent, sites.astype(np.float32))


def label_map_brains(
    folder: str | Path, label_values: Mapping[str, Sequence[int]] | None = None
) -> tuple[BrainMap, ...]:
    """The maps of segmented brains, about 200 MB each at 1 mm.

    Args:
        folder: one NIfTI file per brain, of whole numbers, in any orientation.
        label_values: values of ``grey``, ``white``, ``csf``, ``ventricles`` and ``background``; those of FreeSurfer and
            SynthSeg by default.

    Raises:
        ValueError: for no file, a value that no tissue names, or a brain without white matter or ventricles.
    """
    values = {name: tuple(map(int, those)) for name, those in (label_values or LABEL_VALUES).items()}
    if set(values) != set(LABEL_VALUES):
        raise ValueError(f"label_values names {', '.join(values)}, expected {', '.join(LABEL_VALUES)}")
    files = sorted(file for file in Path(folder).glob("*.nii*") if file.name.endswith((".nii", ".nii.gz")))
    if not files:
        raise ValueError(
            f"{folder}: no label map (*.nii, *.nii.gz) in this folder; name another one, or none (--label_maps null)"
        )
    return tuple(_label_map_brain(file, values) for file in files)


def _label_map_brain(file: Path, values: Mapping[str, tuple[int, ...]]) -> BrainMap:
    import nibabel as nib
    from scipy import ndimage

    image = nib.as_closest_canonical(nib.load(file))
    labels = np.rint(np.asarray(image.dataobj)).astype(int)
    if labels.ndim != 3:
        raise ValueError(f"{file}: shape {labels.shape}, expected a label map of one volume")
    known = {value for those in values.values() for value in those}
    unknown = sorted(set(np.unique(labels).tolist()) - known)
    if unknown:
        raise ValueError(
            f"{file}: values {unknown[:8]} belong to no tissue; add them to label_values, those outside the brain under background"
        )
    step = np.array(image.header.get_zooms()[:3], float)
    brain = filled(~np.isin(labels, values["background"]))
    # labels have hard borders, voxels have partial volumes
    grey, white, ventricles = (
        ndimage.gaussian_filter(np.isin(labels, values[name]).astype(np.float32), 0.5 / step)
        for name in ("grey", "white", "ventricles")
    )
    for name, tissue in (("white", white), ("ventricles", ventricles)):
        if tissue.max() < 0.5:
            raise ValueError(f"{file}: no {name}; its values must be those of label_values")
    return brain_map(grey, white, ventricles, brain, step)
