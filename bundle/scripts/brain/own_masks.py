"""The user's own brain masks: found in a folder, and resampled to the grid of a series."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from custom_transforms.nifti import NIFTI_SUFFIXES, read_nifti
from custom_transforms.volume import SeriesError

from ..errors import UserError, some
from .grids import carried, same_grid


def own_mask(
    folder: str | Path, patient: str, mri_type: str, volume: np.ndarray, affine: np.ndarray
) -> tuple[np.ndarray, Path]:
    """The user's mask of a series, bool ``(X, Y, Z)`` on its grid, and its file.

    Candidates are ``<patient>/<modality>.nii.gz``, ``<patient>_<modality>.nii.gz`` and ``<modality>.nii.gz``, with or without ``.gz``.
    A mask on another grid is resampled by the affines.

    Args:
        folder: of the masks.
        patient: as the data list names the patient.
        mri_type: modality.
        volume: ``(X, Y, Z)``.
        affine: 4 x 4, RAS mm.

    Raises:
        UserError: when there is none, it can't be read, or it does not overlap the series.
    """
    what = f"patient {patient}: {mri_type}"
    names = [f"{mri_type}{suffix}" for suffix in reversed(NIFTI_SUFFIXES)]
    places = [Path(folder, patient, name) for name in names] if patient else []
    places += [Path(folder, f"{patient}_{name}") for name in names] if patient else []
    places += [Path(folder, name) for name in names]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        looked = some((place.relative_to(folder).as_posix() for place in places[:1] + places[-2:-1]), 2)
        raise UserError(f"{what}: no mask of its brain in {folder}, expected {looked}; put it there, or omit --brain")
    try:
        found = read_nifti(file)
    except SeriesError as error:
        raise UserError(f"{what}: {error}") from error
    mask = found.array > 0
    if not same_grid(volume.shape, affine, mask.shape, found.affine):
        mask = np.nan_to_num(carried(mask, found.affine, volume.shape, affine)) > 0.5
    if not mask.any():
        raise UserError(
            f"{what}: {file} marks nothing in the series, expected a mask of its brain in the same scanner coordinates; "
            "check that it belongs to this series"
        )
    return mask, file
