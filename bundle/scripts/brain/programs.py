"""External brain-extraction programs, called as commands where they are installed: HD-BET and SynthStrip.

HD-BET 2: Isensee et al., Human Brain Mapping 40 (2019), https://github.com/MIC-DKFZ/HD-BET. SynthStrip: Hoopes et al., NeuroImage
260 (2022), https://synthstrip.io.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from ..errors import UserError
from .grids import as_stored, canonical, same_grid

COMMANDS = {"hd-bet": "hd-bet", "synthstrip": "mri_synthstrip"}
"""Commands by the name of their method."""
LAST_LINES = 5  # of a command's output, shown when it fails


def is_installed(method: str) -> bool:
    """Whether the command of a method is on the PATH."""
    return shutil.which(COMMANDS[method]) is not None


def program_mask(volume: np.ndarray, affine: np.ndarray, method: str, what: str) -> np.ndarray:
    """The brain in a series, from an external program, bool ``(X, Y, Z)``.

    Args:
        volume: ``(X, Y, Z)``.
        affine: 4 x 4, RAS mm.
        method: a key of ``COMMANDS``.
        what: names patient and series in errors.

    Raises:
        UserError: when the command is missing, fails, or leaves no mask on the series' grid.
    """
    command = shutil.which(COMMANDS[method])
    if command is None:
        raise UserError(
            f"{what}: --brain {method}, but there is no command {COMMANDS[method]} on the PATH; install it, or choose "
            "another way to find the brain with --brain"
        )
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "series.nii.gz"), Path(folder, "brain.nii.gz")
        nib.save(nib.Nifti1Image(np.asarray(volume, np.float32), affine), source)
        options, mask = _options(method, source, target)
        done = subprocess.run([command, *options], capture_output=True, text=True, cwd=folder, check=False)
        if done.returncode or not mask.is_file():
            said = " / ".join((done.stderr or done.stdout).strip().splitlines()[-LAST_LINES:])
            raise UserError(
                f"{what}: {COMMANDS[method]} ended with status {done.returncode} and left "
                f"{'a' if mask.is_file() else 'no'} mask, expected 0 and a mask ({said or 'it said nothing'}); run it by "
                "itself on the series, or choose another way with --brain"
            )
        image = nib.load(mask)
        found = np.asarray(image.dataobj) > 0  # type: ignore[attr-defined]
        turned, to = canonical(found.reshape(found.shape[:3]), image.affine)  # type: ignore[attr-defined]
    expected, where = canonical(volume, affine)
    if not same_grid(expected.shape, where, turned.shape, to):
        raise UserError(
            f"{what}: the mask of {COMMANDS[method]} has {found.shape} voxels, expected {volume.shape} in the same place; "
            "give its mask with --brain FOLDER"
        )

    return as_stored(turned, affine)


def _options(method: str, source: Path, target: Path) -> tuple[list[str], Path]:
    """Arguments, and the mask's file."""
    if method == "synthstrip":
        return ["-i", str(source), "-m", str(target)], target
    options = ["-i", str(source), "-o", str(target), "--save_bet_mask", "--no_bet_image"]
    if not torch.cuda.is_available():
        options += ["-device", "cpu", "--disable_tta"]
    return options, target.with_name("brain_bet.nii.gz")
