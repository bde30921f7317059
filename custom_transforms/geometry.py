"""Slices in patient space: the geometry of a series, and its acquisition slices as a stack."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from .planes import DISPLAY_AXCODES, PLANES

THICK_SLICE_FACTOR = 1.05


@dataclass(frozen=True, eq=False)
class SliceGeometry:
    """
    The relation of a volume ``(X, Y, Z)`` and its stack of slices ``(N, H, W)``.

    The stack shows slices as radiologists see them: axial rows run from front to back, columns from the patient's right
    to left, slices from foot to head; coronal rows from head to foot, columns right to left, slices front to back;
    sagittal rows from head to foot, columns front to back, slices left to right. Oblique volumes take the nearest
    directions; nothing is resampled.

    Args:
        affine: 4 x 4 affine from voxel index to RAS position in mm, of the volume as read; kept as a read-only copy.
        shape: ``(X, Y, Z)`` of the volume as read.
        plane: "axial", "coronal" or "sagittal".

    Raises:
        ValueError: for an affine that is not an invertible 4 x 4 matrix, a shape of other than three lengths, or an
            unknown plane.
    """

    affine: np.ndarray
    shape: tuple[int, int, int]
    plane: str

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
            raise ValueError(f"affine must be an invertible 4 x 4 matrix, got {affine.tolist()}.")
        affine.setflags(write=False)
        shape = tuple(int(length) for length in self.shape)
        if len(shape) != 3:
            raise ValueError(f"shape must be (X, Y, Z) of one volume without channel, got {shape}.")
        if self.plane not in DISPLAY_AXCODES:
            raise ValueError(f"plane must be one of {sorted(DISPLAY_AXCODES)}, got {self.plane!r}.")
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", shape)

    @classmethod
    def from_affine(cls, affine: Any, shape: Sequence[int], plane: str | None = None) -> SliceGeometry:
        """
        Choose the plane in which the volume was acquired.

        Args:
            affine: 4 x 4 RAS affine of the volume.
            shape: ``(X, Y, Z)``.
            plane: the plane to take; None: slices lie across the axis whose voxels are longer than those of both other
                axes by more than 5 %, and the nearest anatomical plane gives the name. Without such an axis: axial.
        """
        matrix = np.array(affine, dtype=np.float64)
        if plane is None:
            spacing = np.linalg.norm(matrix[:3, :3], axis=0)
            thick = int(spacing.argmax())
            if spacing[thick] > THICK_SLICE_FACTOR * np.delete(spacing, thick).max():
                plane = PLANES[int(io_orientation(matrix)[thick, 0])]
            else:
                plane = "axial"
        return cls(matrix, cast(tuple[int, int, int], tuple(shape)), plane)

    @property
    def _orientation(self) -> np.ndarray:
        """Volume axis -> (axis of (column, row, slice), flip)."""
        return ornt_transform(io_orientation(self.affine), axcodes2ornt(DISPLAY_AXCODES[self.plane]))

    def moves(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Volume axes in the order (slice, row, column), and the stack axes to flip then: how ``to_stack`` turns a volume."""
        orientation = self._orientation
        source = [int(np.flatnonzero(orientation[:, 0] == axis)[0]) for axis in (2, 1, 0)]
        return tuple(source), tuple(place for place, axis in enumerate(source) if orientation[axis, 1] < 0)

    @property
    def stack_shape(self) -> tuple[int, int, int]:
        """``(N, H, W)``."""
        n, h, w = (self.shape[axis] for axis in self.moves()[0])
        return n, h, w

    @property
    def stack_affine(self) -> np.ndarray:
        """4 x 4 affine from (column, row, slice) index of the stack to RAS position in mm."""
        return np.asarray(self.affine @ inv_ornt_aff(self._orientation, self.shape))

    @property
    def pixel_spacing(self) -> tuple[float, float]:
        """Distance in mm between rows and between columns, in this order (as DICOM's PixelSpacing)."""
        column, row = np.linalg.norm(self.stack_affine[:3, :2], axis=0)
        return float(row), float(column)

    @property
    def voxel_volume(self) -> float:
        """Of a voxel, in mm³."""
        return abs(float(np.linalg.det(self.affine[:3, :3])))

    @property
    def _normal(self) -> np.ndarray:
        affine = self.stack_affine
        normal = np.cross(affine[:3, 0], affine[:3, 1])
        normal = normal / np.linalg.norm(normal)
        return normal if normal @ affine[:3, 2] > 0 else -normal

    @property
    def slice_spacing(self) -> float:
        """Distance in mm between neighbouring slices, along their normal."""
        return float(self._normal @ self.stack_affine[:3, 2])

    @property
    def positions(self) -> np.ndarray:
        """``(N,)`` positions in mm of the slices along their normal, ascending."""
        affine = self.stack_affine
        return self._normal @ affine[:3, 3] + self.slice_spacing * np.arange(self.stack_shape[0])

    def to_stack(self, volume: NdarrayOrTensor) -> NdarrayOrTensor:
        """
        Split a volume ``(X, Y, Z)`` into slices ``(N, H, W)``; a MetaTensor gives a plain tensor.

        Raises:
            ValueError: when the volume's shape is not this geometry's.
        """
        if tuple(volume.shape) != self.shape:
            raise ValueError(f"Expected a volume of shape {self.shape}, got {tuple(volume.shape)}.")
        if isinstance(volume, torch.Tensor):
            source, flips = self.moves()
            return _plain(volume).permute(source).flip(flips).contiguous()
        return np.array(self.view(volume), order="C")

    def view(self, volume: np.ndarray) -> np.ndarray:
        """The slices ``(N, H, W)`` of an array ``(X, Y, Z)`` of this geometry's shape, without a copy."""
        source, flips = self.moves()
        return np.flip(np.transpose(volume, source), flips)

    def to_volume(self, stack: NdarrayOrTensor) -> NdarrayOrTensor:
        """
        Put slices ``(N, H, W)`` back into the volume ``(X, Y, Z)``; the exact inverse of ``to_stack``.

        Raises:
            ValueError: when the stack's shape is not this geometry's.
        """
        if tuple(stack.shape) != self.stack_shape:
            raise ValueError(f"Expected a stack (N, H, W) of shape {self.stack_shape}, got {tuple(stack.shape)}.")
        source, flips = self.moves()
        target = tuple(int(axis) for axis in np.argsort(source))
        if isinstance(stack, torch.Tensor):
            return _plain(stack).flip(flips).permute(target).contiguous()
        return np.array(np.transpose(np.flip(stack, flips), target), order="C")

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and strings, suitable for JSON and HDF5 attributes."""
        return {"affine": self.affine.tolist(), "shape": list(self.shape), "plane": self.plane}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SliceGeometry:
        """Rebuild it from ``to_dict``'s values, lists or arrays."""
        x, y, z = (int(length) for length in values["shape"])
        return cls(np.asarray(values["affine"], dtype=np.float64), (x, y, z), str(values["plane"]))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SliceGeometry):
            return NotImplemented
        return (
            self.shape == other.shape and self.plane == other.plane and bool(np.array_equal(self.affine, other.affine))
        )

    def __hash__(self) -> int:
        # + 0.0: -0.0 equals 0.0 and must hash alike.
        return hash(((self.affine + 0.0).tobytes(), self.shape, self.plane))


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor


class AcquisitionSlices(Transform):
    """
    Split a single-channel volume ``(1, X, Y, Z)`` into its acquired slices ``(N, H, W)`` and their geometry.

    Args:
        plane: "axial", "coronal" or "sagittal"; None takes the plane of the files that :py:class:`SeriesReader` read,
            so that every file is a slice, and for NIfTI, which does not record it, the plane of the thick slices, axial for
            (near-)isotropic volumes: see :py:meth:`SliceGeometry.from_affine`.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012

    def __init__(self, plane: str | None = None) -> None:
        if plane is not None and plane not in DISPLAY_AXCODES:
            raise ValueError(f"plane must be None or one of {sorted(DISPLAY_AXCODES)}, got {plane!r}.")
        self.plane = plane

    def __call__(self, volume: MetaTensor) -> tuple[torch.Tensor, SliceGeometry]:
        """
        Return the stack ``(N, H, W)`` as a plain tensor of the volume's dtype, and its geometry.

        Raises:
            TypeError: when the volume is not a MetaTensor: without an affine its planes are unknown.
            ValueError: when its shape is not ``(1, X, Y, Z)``.
        """
        if not isinstance(volume, MetaTensor):
            raise TypeError(
                f"Expected a MetaTensor with an affine, got {type(volume).__name__}. Load the volume with "
                "LoadImage(reader=SeriesReader(), ensure_channel_first=True)."
            )
        if volume.ndim != 4 or volume.shape[0] != 1:
            raise ValueError(
                f"Expected one volume with channel (1, X, Y, Z), got {tuple(volume.shape)}. Load one series per key, "
                "with ensure_channel_first=True."
            )
        affine = torch.as_tensor(volume.affine, dtype=torch.float64).cpu().numpy()
        plane = self.plane or volume.meta.get("plane") or None
        geometry = SliceGeometry.from_affine(affine, tuple(volume.shape[1:]), plane)
        stack = geometry.to_stack(volume.as_tensor()[0])
        return torch.as_tensor(stack), geometry


class AcquisitionSlicesd(MapTransform):
    """Dictionary form of :py:class:`AcquisitionSlices`, whose ``plane`` it has; all keys share one geometry.

    Args:
        keys: volumes ``(1, X, Y, Z)`` of one shape and affine; each is replaced by its stack ``(N, H, W)``.
        geometry_key: where the :py:class:`SliceGeometry` goes.

    Raises:
        ValueError: when the volumes differ in shape or affine.
    """

    backend = AcquisitionSlices.backend

    def __init__(
        self,
        keys: KeysCollection,
        geometry_key: str = "geometry",
        plane: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.geometry_key = geometry_key
        self.slices = AcquisitionSlices(plane)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the volumes by stacks and add the geometry."""
        d = dict(data)
        geometry: SliceGeometry | None = None
        first: Hashable = None
        for key in self.key_iterator(d):
            d[key], found = self.slices(d[key])
            if geometry is None:
                geometry, first = found, key
            elif found.shape != geometry.shape or not np.allclose(found.affine, geometry.affine, atol=1e-3):
                raise ValueError(
                    f"'{first}' and '{key}' are different volumes: shape {geometry.shape} and {found.shape}, affine "
                    f"{geometry.affine.tolist()} and {found.affine.tolist()}. Resample one to the other first "
                    "(ResampleToMatchd), or give each an AcquisitionSlicesd with a geometry_key of its own."
                )
        if geometry is not None:
            d[self.geometry_key] = geometry
        return d


AcquisitionSlicesD = AcquisitionSlicesDict = AcquisitionSlicesd
