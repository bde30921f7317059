"""The MONAI reader of one MRI series: DICOM, NIfTI or pictures, as a volume with its geometry."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple

from .dicom import assemble_dicom
from .dicom_file import DICOM_SUFFIXES, read_dicom
from .intensity import background_to_zero
from .nifti import NIFTI_SUFFIXES, read_nifti
from .pictures import PICTURE_SUFFIXES, read_pictures
from .skull import has_skull
from .volume import SeriesError, Volume, entries_of, files_of, some

logger = logging.getLogger(__name__)

SKULL = "it shows the skull"


class SeriesReader(ImageReader):
    """
    Read **one** series as a float32 volume ``(X, Y, Z)`` with its RAS affine, for
    ``LoadImaged(keys, reader=SeriesReader(), ensure_channel_first=True)``.

    Input:

    - a folder of DICOM files with any names (hidden files, a DICOMDIR and non-DICOM files are skipped),
      a list of such files where several series share a folder, or a single one, multi-frame Enhanced MR included. Axes: columns, rows, slices; slices ascend along the slice
      normal (row direction x column direction), whatever the file names. Values are rescaled per file
      (RescaleSlope, RescaleIntercept); MONOCHROME1 is inverted within the series' own range (largest + smallest -
      value), before the background is analysed.
    - a NIfTI file (``.nii``, ``.nii.gz``): nibabel's axes and affine. Trailing axes of length 1 are dropped.
    - a folder of pictures (``Image-1.jpg``, PNG as well; the JPG rendering of the RSNA-MICCAI 2021 challenge): ordered
      by the last number in the name. Pictures carry no geometry: they are taken as axial DICOM slices of 1 mm in
      standard position (affine ``diag(-1, -1, 1, 1)``), so that slices look as in the pictures.

    Slice order of DICOM: ImagePositionPatient along the normal; else SliceLocation; else InstanceNumber; else the last
    number in the file name; else the file name. All but the first give a warning and an affine that is only as good as
    the header. The distance between slices is measured (first to last position), not taken from
    SliceThickness.

    Repairs, with a warning (in ``meta["warnings"]`` and in the log):

    - Two slices at one position with equal pixels: the second is dropped.
    - Missing slices (a gap above 1.5 x the median spacing): where the remaining slices fit a regular grid (each within
      a quarter of the spacing, at most half of the grid missing), blank slices of the series' lowest value are put in
      the gaps. Thus every acquired slice, and a mask drawn on it, keeps its place in the patient. Otherwise the
      volume gets the mean spacing, and the warning says by how many mm slices are off.
    - NaN, infinite values and those beyond ±1e30 become 0.
    - A background other than 0 becomes 0, and the brain of a z-scored volume is raised above it: see
      :py:func:`~custom_transforms.intensity.background_to_zero`.

    A series that shows the skull, or may, is read as it is, with a warning; ``meta["skull"]`` is one of: ``skull``, ``stripped`` or ``unclear``.

    Metadata: ``affine``, ``original_affine``, ``space`` (RAS), ``spatial_shape``, ``original_channel_dim`` (NaN: none),
    ``filename_or_obj``, ``warnings`` (list of str), ``slice_files`` (file name per slice along Z, "" for a blank one;
    empty for NIfTI), ``plane`` (that of the files; empty for NIfTI), ``patient_id`` and ``scanner`` (DICOM's PatientID, and its manufacturer, model and field strength; empty
    where the series does not give them).

    Everything else raises :py:class:`SeriesError`: a missing path, an empty folder, several series, different sizes,
    orientations or pixel spacings (localizers), different pixels at one position, no pixel data, unreadable or
    truncated files, colour, a NIfTI file with several volumes, the same value everywhere, voxels that are flat, shorter than 0.001 mm or longer than 1 m, and (before memory is taken
    for it) more than 4096 voxels per side, 100 million in all, or than the file can hold. It is raised by ``get_data``, not by ``read``:
    ``LoadImage`` hands a file whose ``read`` failed to MONAI's other readers, which would accept the first of several
    series, for example.

    Args:
        labels: read a label map, whose values are kept and may all be 0.
        voi_lut: apply each DICOM file's window (WindowCenter, WindowWidth, VOILUTFunction) or table (VOILUTSequence) after its
            rescaling and before MONOCHROME1 is inverted: grey values as viewers show them. The first of several; a table before a
            window. Scanners write a window for each slice, after which slices can't be compared with each other: this is
            for looking at them. Files without one are unchanged, with a warning; NIfTI files and pictures have none. ``meta["shown_range"]`` has the values of
            black and white, and is empty where not all slices share them.
    """

    def __init__(self, labels: bool = False, voi_lut: bool = False) -> None:
        super().__init__()
        self.labels = labels
        self.voi_lut = voi_lut

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Tell whether ``filename`` is one folder, NIfTI file or DICOM file (by suffix, or without any), or several files."""
        names = ensure_tuple(filename)
        path = Path(names[0])
        known = path.suffix == "" or path.name.lower().endswith(NIFTI_SUFFIXES + DICOM_SUFFIXES)
        return len(names) > 1 or path.is_dir() or known

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Path | list[Path]:
        """Return the path(s) unchanged; ``get_data`` does the reading (see the class)."""
        paths = [Path(name).expanduser() for name in ensure_tuple(data)]
        return paths[0] if len(paths) == 1 else paths

    def get_data(self, img: PathLike | Sequence[PathLike]) -> tuple[np.ndarray, dict]:
        """
        Read the series.

        Args:
            img: what ``read`` returned: the path of the series, or those of its DICOM files.

        Returns:
            the volume ``(X, Y, Z)``, float32, and its metadata.

        Raises:
            SeriesError: when the series can't be used.
        """
        paths = [Path(name) for name in ensure_tuple(img)]
        path, volume = self._read(paths)
        if not self.labels:
            _as_brain(path, volume)
        called = path if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more files"
        for text in volume.warnings:
            if not text.startswith(SKULL):  # the next step removes the skull, or warns
                logger.warning("%s: %s", called, text)
        meta = {
            MetaKeys.AFFINE: volume.affine,
            MetaKeys.ORIGINAL_AFFINE: volume.affine.copy(),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.SPATIAL_SHAPE: np.asarray(volume.array.shape),
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),
            "filename_or_obj": str(path),
            "warnings": volume.warnings,
            "slice_files": volume.slice_files,
            "plane": volume.plane,
            "skull": volume.facts.get("skull", ""),
            "patient_id": volume.facts.get("patient_id", ""),
            "scanner": volume.facts.get("scanner", ""),
        }
        if self.voi_lut:
            meta["shown_range"] = list(volume.shown_range or [])
        return volume.array, {str(key): value for key, value in meta.items()}

    def _read(self, paths: list[Path]) -> tuple[Path, Volume]:
        """The location and content of the series."""
        return _read_volume(paths, self.voi_lut)


def _as_brain(path: Path, volume: Volume) -> None:
    """Check that the images are not empty, give them a background of 0, and look for a skull."""
    array = volume.array
    if array.min() == array.max():
        raise SeriesError(
            f"{path}: all {array.size} voxels have the value {array.flat[0]:g}, expected images of a brain. Export the "
            "series again, or leave it out."
        )
    blank = [index for index, name in enumerate(volume.slice_files) if not name]
    volume.array, done = background_to_zero(array, blank)
    finding = has_skull(array, volume.affine)
    volume.facts["skull"] = finding.verdict
    if done:
        volume.warnings.append(done)
    if finding.verdict == "stripped" or not finding.seen:
        return
    what = SKULL if finding.verdict == "skull" else "it is not clear whether it shows the skull"
    volume.warnings.append(
        f"{what}: {finding.reason}. Expected the brain alone, which predict and segment find (--brain)."
    )


def _read_volume(paths: list[Path], voi_lut: bool) -> tuple[Path, Volume]:
    """The location and content of a series."""
    path, files = files_of(paths)
    if len(paths) == 1 and path.is_dir():
        return path, _read_folder(path, files, voi_lut)
    if len(paths) == 1 and path.name.lower().endswith(NIFTI_SUFFIXES):
        return path, read_nifti(path)
    if len(paths) == 1 and path.suffix.lower() in PICTURE_SUFFIXES:
        raise SeriesError(f"{path}: found one picture, expected a series. Pass the folder that holds its pictures.")
    datasets = {}
    for name, file in files.items():
        dataset = read_dicom(file)
        if dataset is None:
            raise SeriesError(
                f"{file}: found neither DICOM nor NIfTI, expected a DICOM file, a NIfTI file (.nii, .nii.gz), or a folder "
                "of DICOM files or pictures. Convert the series to one of them."
            )
        datasets[name] = dataset
    return path, assemble_dicom(path, datasets, voi_lut)


def _read_folder(folder: Path, files: dict[str, Path], voi_lut: bool) -> Volume:
    datasets = {name: dataset for name, file in files.items() if (dataset := read_dicom(file)) is not None}
    if datasets:
        return assemble_dicom(folder, datasets, voi_lut)
    pictures = [file for file in files.values() if file.suffix.lower() in PICTURE_SUFFIXES]
    if pictures:
        return read_pictures(folder, pictures)
    found = f"found {len(files)} files" + (f" ({some(files)})" if files else "")
    remedy = "Check that the series was copied or unpacked completely."
    if nifti := [name for name in files if name.lower().endswith(NIFTI_SUFFIXES)]:
        remedy = f"Pass the path of the NIfTI file itself ({some(nifti)})."
    elif folders := [entry.name for entry in entries_of(folder) if entry.is_dir()]:
        found += f" and {len(folders)} folders ({some(folders)})"
        remedy = "Pass the folder of one series."
    raise SeriesError(f"{folder}: {found}, expected the DICOM files or pictures of one series. {remedy}")
