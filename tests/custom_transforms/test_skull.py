"""Whether a series shows the skull: synthetic heads in many forms, and real series."""

import numpy as np
import pytest

from custom_transforms import SeriesReader, has_skull
from scripts.synthetic.phantom import make_patient, make_series
from tests.heads import read_real_head, with_skull

MRI_TYPES = ("FLAIR", "T1w", "T1wCE", "T2w")


@pytest.fixture(scope="module")
def patient():
    pytest.importorskip("nilearn")
    return make_patient(1, 1, spacing=2.0, shape=(120, 130, 96))


def halves(volume):
    for axis in range(3):
        middle = volume.shape[axis] // 2
        yield from np.split(volume, [middle], axis)


@pytest.mark.slow
@pytest.mark.parametrize("mri_type", MRI_TYPES)
@pytest.mark.parametrize(("fat", "noise"), [(1.0, 0.0), (0.4, 0.0), (1.0, 0.02)])
def test_phantoms_with_a_skull_and_without(patient, mri_type, fat, noise):
    brain = patient.volumes[mri_type]
    head = with_skull(brain, fat=fat, noise=noise)
    for volume, verdict in ((brain, "stripped"), (head, "skull")):
        finding = has_skull(volume, patient.affine)
        assert finding.verdict == verdict, finding
        for half in halves(volume) if fat == 1 else ():
            assert has_skull(half, patient.affine).verdict == verdict
        for plane, thickness in (("axial", 6.0), ("coronal", 7.0), ("sagittal", 5.0)):
            series = make_series(volume, patient.seg, patient.affine, plane, thickness)
            assert has_skull(series.image, series.affine).verdict == verdict, (plane, thickness)


@pytest.mark.slow
@pytest.mark.parametrize("mri_type", MRI_TYPES)
def test_the_scale_of_grey_values_does_not_matter(patient, mri_type):
    brain = patient.volumes[mri_type]
    inside = brain[brain > 0]
    for volume, verdict in ((brain, "stripped"), (with_skull(brain), "skull")):
        scored = np.where(volume > 0, (volume - inside.mean()) / inside.std(), 0).astype("f4")
        clipped = np.minimum(volume, np.percentile(volume, 97))
        for changed in (volume + 100, volume * 0.001, np.rint(volume / volume.max() * 255), clipped, scored):
            assert has_skull(changed, patient.affine).verdict == verdict


@pytest.mark.slow
def test_noise_in_the_air_is_a_scanners(patient):
    """Where the scalp hardly shows, because its fat was suppressed, noise still decides."""
    finding = has_skull(with_skull(patient.volumes["T1wCE"], fat=0.08, noise=0.02), patient.affine)
    assert finding.verdict == "skull"
    assert finding.layered < 0.15
    assert finding.air_noise > 0.8


def test_what_shows_no_surface_is_unclear(patient):
    brain = patient.volumes["T1w"]
    middle = tuple(slice(n // 2 - 16, n // 2 + 16) for n in brain.shape)
    for volume in (brain[middle], np.full((40, 40, 20), 7.0)):
        finding = has_skull(volume, patient.affine)
        assert finding.verdict == "unclear"
        assert finding.reason
    with pytest.raises(TypeError, match="three outcomes"):
        bool(finding)


def test_what_is_as_large_as_a_head_without_its_layers_is_unclear(patient):
    larger = patient.affine @ np.diag([1.35, 1.35, 1.35, 1])
    assert has_skull(patient.volumes["T1w"], larger).verdict == "unclear"


# --- real series -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_series_with_their_skull_and_without_it(real_data):
    real_head = read_real_head(real_data)
    for mri_type, (volume, affine) in real_head.series.items():
        finding = has_skull(volume, affine)
        assert finding.verdict == "skull"
        assert finding.layered > 0.4
        assert has_skull(volume * real_head.masks[mri_type], affine).verdict == "stripped"
        silent = np.where(volume < 0.06 * np.percentile(volume, 99), 0, volume)  # as where a scanner blanks the air
        for part in (silent, silent[:, :, :13], silent[:, :, 13:], silent[: len(silent) // 2]):
            assert has_skull(part, affine).verdict == "skull"


@pytest.mark.slow
def test_real_series_without_a_skull(real_data):
    files = [file for folder in ("cohort", "task1", "brats2023") for file in (real_data / folder).glob("*/*.nii.gz")]
    files = [file for file in files if not file.name.endswith("seg.nii.gz")]
    folders = list((real_data / "task2" / "train").glob("*/*"))
    if not (files and folders):
        pytest.skip(f"no stripped series in {real_data}")
    for path in files + folders:
        volume, meta = SeriesReader().get_data(path)
        finding = has_skull(volume, meta["affine"])
        assert finding.verdict == "stripped", (path, finding)
        assert finding.layered < 0.1
        assert finding.air_noise < 0.01
