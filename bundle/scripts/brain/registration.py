"""Rigid registration of two series of a head by mutual information, in scanner coordinates.

Mattes et al., IEEE TMI 22 (2003), as in SimpleITK.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import written_whole
from ..outputs import inside
from .grids import canonical, carried, steady

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
BINS = 32
LEVELS = ((4.0, 5_000, 2.0), (2.0, 10_000, 0.5))
"""Coarse, then fine: mm between the sampled voxels, how many are compared, and the first step, mm."""
ROUNDS = 6  # of line searches, at most; gradients end sooner, but short of the optimum
STEP_TOLERANCE, VALUE_TOLERANCE = 0.01, 1e-4  # mm, of mutual information
RADIUS = 60.0  # mm from the middle of a head: displacement there per radian of rotation
SEED = 67


@dataclass(frozen=True)
class RigidTransform:
    """The position of a head in one series relative to another.

    Attributes:
        matrix: 4 x 4, RAS mm in the fixed series to RAS mm in the moving one.
        angle: between the two, degrees.
        shift: of the centre of the compared region, mm.
    """

    matrix: np.ndarray
    angle: float
    shift: float

    @classmethod
    def of(cls, matrix: np.ndarray, middle: np.ndarray) -> RigidTransform:
        """From the matrix and a point ``(3,)`` of the fixed series, RAS mm."""
        cosine = (np.trace(matrix[:3, :3]) - 1) / 2
        moved = matrix[:3, :3] @ middle + matrix[:3, 3]
        angle = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
        return cls(matrix, angle, float(np.linalg.norm(moved - middle)))

    def apart(self, other: RigidTransform, mask: np.ndarray, affine: np.ndarray) -> float:
        """Mean distance in mm between the positions that the two give the voxels of a mask ``(X, Y, Z)`` in the fixed series."""
        points = np.argwhere(mask)[::50] @ affine[:3, :3].T + affine[:3, 3]
        difference = self.matrix - other.matrix
        return float(np.linalg.norm(points @ difference[:3, :3].T + difference[:3, 3], axis=1).mean())


def is_installed() -> bool:
    """Whether SimpleITK is installed."""
    return importlib.util.find_spec("SimpleITK") is not None


def register(
    moving: tuple[np.ndarray, np.ndarray],
    fixed: tuple[np.ndarray, np.ndarray],
    start: np.ndarray | None = None,
) -> RigidTransform:
    """Find how the head moved between two series, of any modalities, grids and orientations; about a second.

    Args:
        moving: volume ``(X, Y, Z)`` and affine.
        fixed: volume and affine; all of it is compared, the skull with it, which shows best how a head lies across thick slices.
        start: 4 x 4, RAS mm in the fixed series to the moving one, to begin with; by default the scanner's coordinates.

    Returns:
        the transform, which :func:`resampled` takes; the same inputs give the same digits with any number of threads and any
        stored orientation.

    Raises:
        UserError: without SimpleITK.
    """
    if not is_installed():
        raise UserError(
            "registration: SimpleITK is not installed, but aligning series needs it: "
            "pip install 'brats-mri-radiogenomics[register]'"
        )
    import SimpleITK as sitk

    middle = fixed[1][:3, :3] @ ((np.array(fixed[0].shape) - 1) / 2) + fixed[1][:3, 3]
    transform = sitk.Euler3DTransform()
    centre = _LPS[:3, :3] @ middle
    transform.SetCenter(centre.tolist())
    begin = _LPS @ (np.eye(4) if start is None else start) @ _LPS
    transform.SetMatrix(begin[:3, :3].ravel().tolist(), 1e-6)
    transform.SetTranslation((begin[:3, :3] @ centre + begin[:3, 3] - centre).tolist())
    fixed_image, moving_image = _image(sitk, *fixed), _image(sitk, *moving)
    for pixel, samples, step in LEVELS:
        _improve(sitk, transform, [_shrunk(sitk, one, pixel) for one in (fixed_image, moving_image)], samples, step)
    matrix = np.eye(4)
    matrix[:3, :3] = turn = np.array(transform.GetMatrix()).reshape(3, 3)
    matrix[:3, 3] = np.array(transform.GetTranslation()) + centre - turn @ centre
    return RigidTransform.of(_LPS @ matrix @ _LPS, middle)


def write_transform(
    transform: RigidTransform, folder: str | Path, patient: str, mri_type: str, fixed: str, moving: str
) -> None:
    """Write ``<patient>_<mri_type>_transform.txt``: the 4 x 4 matrix, with a line that names the two series."""
    with written_whole(inside(folder, f"{patient}_{mri_type}_transform.txt")) as temporary:
        np.savetxt(temporary, transform.matrix, header=f"RAS mm in {moving} = matrix @ RAS mm in {fixed}")


def resampled(
    moving: tuple[np.ndarray, np.ndarray], fixed: tuple[np.ndarray, np.ndarray], transform: RigidTransform
) -> np.ndarray:
    """The moving series on the grid of the fixed one, float32 of its shape; trilinear, 0 where the moving one does not reach.

    Args:
        moving: volume and affine.
        fixed: volume and affine.
        transform: from :func:`register`.
    """
    return np.nan_to_num(carried(*moving, fixed[0].shape, fixed[1], transform.matrix))


def _improve(sitk: Any, transform: Any, images: list[Any], samples: int, step: float) -> None:
    """Improve the transform, in place; the images are the fixed one and the moving one."""
    fixed, moving = images
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)  # sums over several differ in their last digits
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(min(1.0, samples / fixed.GetNumberOfPixels()), SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsPowell(
        numberOfIterations=ROUNDS, stepLength=step, stepTolerance=STEP_TOLERANCE, valueTolerance=VALUE_TOLERANCE
    )
    method.SetOptimizerScales([RADIUS] * 3 + [1.0] * 3)
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(fixed, moving)


def _shrunk(sitk: Any, image: Any, pixel: float) -> Any:
    """A downsampled image of voxel averages; thick slices stay."""
    return sitk.BinShrink(image, [max(1, round(pixel / side)) for side in image.GetSpacing()])


def depth(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Distance from the border of a mask ``(X, Y, Z)``, mm, positive inside, float32; resampled, it keeps a smooth border.

    Args:
        mask: voxels of any shape, thick slices too.
        affine: 4 x 4, RAS mm.
    """
    import SimpleITK as sitk

    sides = []
    # each is measured to the outermost voxels of the mask; the border lies between the two
    for part in (mask > 0, mask == 0):
        image = sitk.GetImageFromArray(np.ascontiguousarray(part.T, dtype=np.uint8))
        image.SetSpacing(np.linalg.norm(affine[:3, :3], axis=0).tolist())
        distance = sitk.SignedMaurerDistanceMap(
            image, insideIsPositive=True, squaredDistance=False, useImageSpacing=True
        )
        sides.append(sitk.GetArrayFromImage(distance).T)
    return np.asarray((sides[0] - sides[1]) / 2)


def _image(sitk: Any, volume: np.ndarray, affine: np.ndarray) -> Any:
    """SimpleITK's image of a volume, in canonical axes so that results don't depend on how it is stored."""
    volume, affine = canonical(volume, affine)
    lps = _LPS @ steady(affine)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    left, _, right = np.linalg.svd(lps[:3, :3] / spacing)  # the nearest rotation: headers round
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.T, dtype=np.float32))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((left @ right).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image
