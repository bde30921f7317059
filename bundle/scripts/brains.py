"""The brain that synthetic images are drawn from: the average brain, smooth random fields, and geometry.

Atlas: Fonov et al., NeuroImage 54 (2011), ICBM 2009a nonlinear symmetric, as carried by nilearn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

__all__ = ["Atlas", "RandomFields", "load_atlas", "rotation", "sample_atlas", "soft_step"]

LATTICE_EXTENT = 256.0  # mm, side of the cube the random fields are defined on


@dataclass(frozen=True)
class Atlas:
    """The average brain.

    Attributes:
        channels: (4, X, Y, Z) grey matter, white matter, T1 texture, depth under the brain's surface in mm.
        affine: (4, 4) voxel index -> MNI152 RAS mm.
        sites: (N, 4) where a tumour may start: x, y, z and depth in the hemisphere, mm.
    """

    channels: torch.Tensor
    affine: np.ndarray
    sites: np.ndarray


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
    # The template shows a scrap of the olfactory bulbs apart from the brain.
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
    # grid_sample wants -1 ... 1 and the last image axis first.
    normalized = [2 * (points[a] - atlas.affine[a, 3]) / (step[a] * (sizes[a] - 1)) - 1 for a in (2, 1, 0)]
    grid = torch.from_numpy(np.stack(normalized, axis=-1).astype(np.float32))
    return torch.nn.functional.grid_sample(atlas.channels[None], grid[None], align_corners=True)[0].numpy()


class RandomFields:
    """Smooth random fields of unit variance on a grid: cubic B-splines over a lattice of normal coefficients.

    The lattice is fixed in mm, so that a patient is the same at every voxel size (free-form deformation: Rueckert et
    al., IEEE TMI 18, 1999).

    Args:
        rng: where the coefficients come from.
        axes: per axis, voxel centres in mm from the centre of the field of view.
    """

    def __init__(self, rng: np.random.Generator, axes: Sequence[np.ndarray]) -> None:
        self.rng = rng
        self.axes = axes

    def draw(self, lattice: float) -> np.ndarray:
        """Return a float32 field (X, Y, Z) that varies over about `lattice` mm."""
        size = math.ceil(LATTICE_EXTENT / lattice) + 4
        field = self.rng.standard_normal((size, size, size), dtype=np.float32)
        for axis in self.axes:
            # Contracts the first axis and appends the new one: after three turns the order is X, Y, Z again.
            field = np.tensordot(field, self._basis(axis, lattice, size), axes=(0, 1))
        return field

    @staticmethod
    def _basis(positions: np.ndarray, lattice: float, size: int) -> np.ndarray:
        knots = np.clip((positions + LATTICE_EXTENT / 2) / lattice, 0, size - 4)
        first = np.floor(knots).astype(int)
        t = knots - first
        weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
        basis = np.zeros((len(positions), size), np.float32)
        for k in range(4):
            basis[np.arange(len(positions)), first + k] = weights[k]
        # 151/315 is the mean over t of the squared weights' sum: divides the variance out of one axis.
        return basis / np.float32(math.sqrt(151 / 315))


def soft_step(distance: np.ndarray, width: float) -> np.ndarray:
    """0 ... 1 over about `width` mm around distance 0: the partial volume of a border."""
    return 1 / (1 + np.exp(np.clip(-4 * distance / width, -30, 30)))


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
