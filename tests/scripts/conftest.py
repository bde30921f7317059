"""Fixtures of the tests of scripts."""

from __future__ import annotations

import logging
import subprocess

import nibabel as nib
import numpy as np
import pytest


@pytest.fixture(scope="session")
def write_label_map():
    """A function that writes a brain segmentation and gives its labels back: a ball, 3 mm, with x from right to left."""

    def write(folder, name="brain.nii.gz", change=None):
        index = np.stack(np.meshgrid(*[np.arange(n) - n / 2 for n in (50, 60, 48)], indexing="ij"))
        radius = np.sqrt((index**2).sum(0))
        labels = np.zeros(radius.shape, np.int16)
        labels[radius < 22] = 24
        labels[radius < 21] = 3
        labels[radius < 18] = 2
        labels[(np.abs(index[0]) < 4) & (np.abs(index[1]) < 6) & (np.abs(index[2]) < 3)] = 4
        if change:
            change(labels)
        nib.save(nib.Nifti1Image(labels, np.diag([-3.0, 3.0, 3.0, 1.0])), folder / name)
        return labels

    return write


@pytest.fixture
def mount():
    """A function that mounts a disk in memory on a folder, as root alone may."""
    places = []

    def on(folder, size):
        words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if subprocess.run(words, capture_output=True, check=False).returncode != 0:
            pytest.skip("this user may not mount a file system")
        places.append(folder)

    yield on
    for place in places:
        subprocess.run(["umount", "-l", str(place)], check=True)  # an error that pytest keeps may hold a file


@pytest.fixture
def full_disk(tmp_path, mount):
    """A folder on a disk of 64 KB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount(place, "64k")
    return place


@pytest.fixture
def log(caplog):
    """What is logged."""
    caplog.set_level(logging.INFO)
    return caplog
