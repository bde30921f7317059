"""Series that show the skull become series of the brain alone on their way to the segmentation."""

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImaged

from custom_transforms import SeriesReader
from scripts.brain import StripSkull
from scripts.errors import UserError
from tests.heads import with_skull


@pytest.fixture(scope="module")
def study(patient, tmp_path_factory):
    """Two series with their skull, one without, and a mask of the brain for the first alone."""
    volumes = {name: with_skull(patient.volumes[name], noise=0.02) for name in ("T1w", "FLAIR")}
    volumes["T2w"] = patient.volumes["T2w"]
    tmp_path = tmp_path_factory.mktemp("study")
    (tmp_path / "masks").mkdir()
    brain = patient.volumes["T1w"] > 0
    nib.save(nib.Nifti1Image(brain.astype(np.uint8), patient.affine), tmp_path / "masks" / "T1w.nii.gz")
    paths = {}
    for name, volume in volumes.items():
        paths[name] = str(tmp_path / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(volume, patient.affine), paths[name])
    return paths, brain, tmp_path / "masks"


def read(study, mri_type):
    item = {"image": study[mri_type], "patient": "7", "mri_type": mri_type, "study": study}
    item = LoadImaged("image", reader=SeriesReader(), ensure_channel_first=True)(item)
    return {**item, "warnings": list(item["image"].meta["warnings"])}


@pytest.mark.slow
def test_a_series_with_its_skull_leaves_as_the_brain_alone(study, tmp_path):
    paths, brain, masks = study
    item = read(paths, "T1w")
    stripped = StripSkull(str(masks), tmp_path / "out")(item)
    image = np.asarray(stripped["image"][0])
    assert not image[~brain].any()
    np.testing.assert_array_equal(image[brain], np.asarray(item["image"][0])[brain])
    np.testing.assert_array_equal(stripped["image"].affine, item["image"].affine)
    (said,) = stripped["warnings"]
    assert said.startswith("its skull was removed: brain of")
    written = nib.load(tmp_path / "out" / "7_T1w_brain.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj) > 0, brain)


@pytest.mark.slow
def test_a_series_without_a_mask_is_refused_and_the_others_go_on(study):
    paths, _, masks = study
    strip = StripSkull(str(masks))
    with pytest.raises(UserError, match="patient 7: FLAIR: no mask of its brain"):
        strip(read(paths, "FLAIR"))
    assert strip(read(paths, "T1w"))["image"].any()


@pytest.mark.slow
def test_a_stripped_series_stays_as_it_is(study):
    paths, _, masks = study
    item = read(paths, "T2w")
    after = StripSkull(str(masks))(item)
    assert after["image"] is item["image"]
    assert after["warnings"] == item["warnings"]


@pytest.mark.slow
def test_with_never_the_skull_stays_and_is_warned_of(study):
    paths, _, _ = study
    item = read(paths, "T1w")
    after = StripSkull("never")(item)
    assert after["image"] is item["image"]
    assert any("used as it is (--brain never)" in text for text in after["warnings"])
