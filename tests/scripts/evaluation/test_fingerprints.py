"""The fingerprint of what a series looks like: copies have the same one, other patients another."""

from __future__ import annotations

import os

import numpy as np
import pytest
from scipy import ndimage

from scripts.evaluation import fingerprints, leakage

pytest.importorskip("nilearn")
SPACING = 2.0  # mm
PATIENTS = int(os.environ.get("RADIOGENOMICS_FINGERPRINT_PATIENTS", "6"))  # 250 make 1,000 volumes


def brain(number):
    from scripts.synthetic.phantom import make_patient

    patient = make_patient(number, number % 2, spacing=SPACING)
    return patient.volumes, patient.affine


def resampled(volume, affine, spacing=(1.5, 1.5, 5.0)):
    """The same on another grid, in the same place."""
    change = np.diag([*(np.array(spacing) / np.linalg.norm(affine[:3, :3], axis=0)), 1.0])
    shape = np.floor((np.array(volume.shape) - 1) / np.diag(change)[:3]).astype(int) + 1
    return ndimage.affine_transform(volume, change[:3, :3], output_shape=tuple(shape), order=1), affine @ change


def cropped(volume, affine):
    """The box of the brain, without the lowest of its slices."""
    low, high = np.argwhere(volume > 0).min(0), np.argwhere(volume > 0).max(0) + 1
    low[2] += 1
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ low
    return volume[tuple(map(slice, low, high))], moved


def rescaled(volume, affine):
    """A gamma, and a coil on one side."""
    return (volume / volume.max()) ** 0.6 * np.linspace(150, 300, volume.shape[0])[:, None, None], affine


def turned(volume, affine):
    """Stored in another order of axes, one of them backwards."""
    order = [2, 0, 1]
    change = np.eye(4)[:, [*order, 3]] @ np.diag([1.0, -1.0, 1.0, 1.0])
    change[order[1], 3] = volume.shape[order[1]] - 1
    return volume.transpose(order)[:, ::-1], affine @ change


COPIES = (resampled, cropped, rescaled, turned)


@pytest.mark.slow
def test_planted_copies_are_found_and_no_two_patients_are_taken_for_one():
    volumes, prints = {}, {}
    for number in range(PATIENTS):
        images, affine = brain(number)
        for mri_type, image in images.items():
            prints[mri_type, number] = fingerprints.fingerprint(image, affine)
            volumes[mri_type, number] = image, affine
    lowest, highest = 1.0, -1.0
    for mri_type in dict.fromkeys(key[0] for key in prints):
        ours = [text for key, text in prints.items() if key[0] == mri_type]
        for copy in COPIES:
            theirs = [fingerprints.fingerprint(*copy(*volumes[key])) for key in volumes if key[0] == mri_type]
            alike = fingerprints.similarity(ours, theirs)
            same = np.eye(len(ours), dtype=bool)
            lowest, highest = min(lowest, alike[same].min()), max(highest, alike[~same].max())
    print(f"{len(prints)} volumes: lowest copy {lowest:.3f}, highest of two patients {highest:.3f}")
    assert lowest > fingerprints.SAME > highest


@pytest.mark.slow
def test_a_series_looks_like_itself_however_it_is_stored():
    images, affine = brain(1)
    prints = [fingerprints.fingerprint(*change(images["T1w"], affine)) for change in (lambda *one: one, turned)]
    other = fingerprints.fingerprint(brain(2)[0]["T1w"], affine)
    assert all(len(text) < 4000 and text.isascii() for text in prints)
    alike = fingerprints.similarity(prints, [*prints, other])
    assert alike[0, 1] > 0.95
    assert alike[0, 0] == pytest.approx(1)
    assert alike[:, 2].max() < fingerprints.SAME


def test_what_shows_no_brain_has_no_fingerprint():
    assert fingerprints.fingerprint(np.zeros((20, 20, 20)), np.eye(4)) == ""
    assert fingerprints.fingerprint(np.ones((3, 3, 1)), np.eye(4)) == ""
    assert fingerprints.similarity([""], ["", "no fingerprint"]).tolist() == [[0, 0]]
    assert fingerprints.similarity([], ["x"]).shape == (0, 1)


@pytest.mark.slow
def test_near_copy_under_another_name_is_a_leak():
    """Stage 1 in NIfTI, stage 2 in DICOM on another grid: no identifier, no checksum in common."""
    image, affine = brain(3)[0]["FLAIR"], brain(3)[1]
    first, second, third = (
        leakage.identities(
            [{"patient": name}],
            [{"patient": name, "mri_type": mri_type, "pixels": name, "looks": fingerprints.fingerprint(*series)}],
        )
        for name, mri_type, series in (
            ("a", "FLAIR", (image, affine)),
            ("b", "FLAIR", resampled(image, affine)),
            ("c", "T2w", (image, affine)),
        )
    )
    with pytest.raises(leakage.LeakError, match=r"a and b \(looks the same in FLAIR, similarity (0\.[89]\d|1\.00)\)"):
        leakage.refuse_leaks(first, second, ("training", "fold 0"), "Remove one.")
    assert leakage.find_leaks(first, third) == {}
