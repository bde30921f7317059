"""The brain's mask in each series: by deepbet, by commands, and from existing masks."""

import os
import stat
import sys

import nibabel as nib
import numpy as np
import pytest

from custom_transforms import has_skull
from scripts.brain import RigidTransform, deepbet, extract_brain, extraction, method_for, programs, registration
from scripts.brain.grids import as_stored, canonical, dice, millilitres
from scripts.checks import BRAIN_METHODS
from scripts.errors import UserError
from scripts.synthetic.brains import rotation
from tests.heads import with_skull

needs_deepbet = pytest.mark.skipif(not deepbet.is_installed(), reason="deepbet is not installed")
needs_registration = pytest.mark.skipif(not registration.is_installed(), reason="SimpleITK is not installed")


@pytest.fixture(scope="module")
def head(patient):
    """Volume, affine and the brain's mask of one series."""
    brain = patient.volumes["T1w"]
    return with_skull(brain, noise=0.01), patient.affine, brain > 0


def as_deepbet(monkeypatch, brains):
    """deepbet's networks replaced by ones that know the brain of each series, by its brightest voxel."""

    def known(volume):
        return brains[float(volume.max())].astype("f4")

    monkeypatch.setattr(deepbet, "is_installed", lambda: True)
    monkeypatch.setattr(deepbet, "coarse_mask", known)
    monkeypatch.setattr(deepbet, "fine_mask", lambda volume, coarse: known(volume) > 0)


# --- ways --------------------------------------------------------------------------------------------------------------


def test_the_first_way_that_is_there_is_taken(monkeypatch, tmp_path):
    there = {"hd-bet": True, "synthstrip": True}
    monkeypatch.setattr(programs, "is_installed", there.get)
    monkeypatch.setattr(deepbet, "is_installed", lambda: True)
    assert method_for("auto") == "deepbet"
    monkeypatch.setattr(deepbet, "is_installed", lambda: False)
    assert method_for("auto") == "hd-bet"
    there["hd-bet"] = False
    assert method_for("auto") == "synthstrip"
    there["synthstrip"] = False
    for method in ("auto", "deepbet"):
        with pytest.raises(UserError, match="patient 7: T1w, FLAIR") as caught:
            extract_brain({"T1w": None, "FLAIR": None}, method, "7")
        for remedy in ("pip install 'brats-mri-radiogenomics[brain]'", "--brain FOLDER", "--brain never"):
            assert remedy in str(caught.value)
    assert method_for(str(tmp_path)) == str(tmp_path)
    assert extract_brain({"T1w": None}, "never") == {}
    with pytest.raises(ValueError, match="nothing-like-it: expected one of auto, deepbet"):
        method_for("nothing-like-it")
    assert set(BRAIN_METHODS) >= {"auto", "deepbet", "never", *programs.COMMANDS}


# --- deepbet -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_registration
def test_the_mask_is_carried_to_where_the_patient_moved(patient, monkeypatch):
    brain = patient.volumes["T1w"] > 0
    moved = np.eye(4)
    moved[:3, :3] = rotation(np.array([3.0, -2, 4]))
    moved[:3, 3] = 5, -9, 4
    t1w, flair = (with_skull(patient.volumes[name], noise=0.01) for name in ("T1w", "FLAIR"))
    thick = flair[:, :, ::3]
    stored = np.flip(thick, (0, 2)).transpose(1, 0, 2)
    places = moved @ patient.affine @ np.diag([1, 1, 3, 1.0])
    swapped = places @ np.array(
        [[0, -1, 0, thick.shape[0] - 1], [1, 0, 0, 0], [0, 0, -1, thick.shape[2] - 1], [0, 0, 0, 1.0]]
    )  # fmt: skip
    rough = np.roll(brain[:, :, ::3], 1, 0)  # what the coarse network would say
    brains = {
        float(t1w.max()): canonical(brain, patient.affine)[0],
        float(flair[:, :, ::3].max()): canonical(rough, places)[0],
    }
    as_deepbet(monkeypatch, brains)
    found = extract_brain({"FLAIR": (stored, swapped), "T1w": (t1w, patient.affine)}, patient="7")
    assert list(found) == ["FLAIR", "T1w"]
    np.testing.assert_array_equal(found["T1w"].mask, brain)
    assert found["T1w"].transform is None
    expected = np.flip(brain[:, :, ::3], (0, 2)).transpose(1, 0, 2)
    assert dice(found["FLAIR"].mask, expected) > 0.97
    assert found["FLAIR"].transform.angle == pytest.approx(5.4, abs=0.4)
    assert found["FLAIR"].source == "found by deepbet on T1w, and transferred"
    assert found["FLAIR"].volume == pytest.approx(millilitres(expected, places), rel=0.03)


def test_a_mask_that_does_not_fit_is_replaced_by_the_series_own(head, monkeypatch):
    volume, affine, brain = head
    other = volume * 2
    brains = {float(one.max()): canonical(brain, affine)[0] for one in (volume, other)}
    as_deepbet(monkeypatch, brains)
    wrong = np.eye(4)
    wrong[1, 3] = 60
    monkeypatch.setattr(registration, "is_installed", lambda: True)
    monkeypatch.setattr(registration, "register", lambda *_, **__: RigidTransform(wrong, 0, 60))
    monkeypatch.setattr(registration, "depth", lambda mask, affine: np.where(mask, 1.0, -1))
    found = extract_brain({"T1w": (volume, affine), "T2w": (other, affine)})
    np.testing.assert_array_equal(found["T2w"].mask, brain)
    assert found["T2w"].source == "found by deepbet on T2w"
    assert found["T2w"].transform is None


@pytest.mark.slow
@needs_registration
def test_a_mask_is_carried_where_two_registrations_agree_though_the_series_own_is_poor(head, monkeypatch):
    volume, affine, brain = head
    other = volume * 2
    poor = np.roll(brain, 7, 1)
    brains = {float(volume.max()): canonical(brain, affine)[0], float(other.max()): canonical(poor, affine)[0]}
    as_deepbet(monkeypatch, brains)
    found = extract_brain({"T1w": (volume, affine), "T2w": (other, affine)})
    assert dice(found["T2w"].mask, brain) > 0.99


def test_the_best_covered_series_leads(head, monkeypatch):
    volume, affine, brain = head
    half = volume[:, :, :40] * 2
    brains = {
        float(volume.max()): canonical(brain, affine)[0],
        float(half.max()): canonical(brain[:, :, :40], affine)[0],
    }
    as_deepbet(monkeypatch, brains)
    monkeypatch.setattr(registration, "is_installed", lambda: False)
    found = extract_brain({"T1w": (half, affine), "FLAIR": (volume, affine)})
    assert found["FLAIR"].source == "found by deepbet on FLAIR"
    np.testing.assert_array_equal(found["T1w"].mask, brain[:, :, :40])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda brain: np.zeros_like(brain), "is empty"),
        (lambda brain: brain & (np.arange(brain.shape[0]) < 50)[:, None, None], r"has \d+ ml, expected 900 to 2000"),
        (lambda brain: np.ones_like(brain), r"has \d+ ml, expected 900 to 2000"),
        (lambda brain: np.roll(brain, 50, 0), r"lies outside the head, only \d+% of it within, expected all"),
        (
            lambda brain: brain & (np.arange(brain.shape[0]) % 30 > 4)[:, None, None],
            "is in pieces, the largest ",
        ),
    ],
)
def test_what_is_no_brain_is_refused(head, monkeypatch, change, said):
    volume, affine, brain = head
    as_deepbet(monkeypatch, {float(volume.max()): canonical(change(brain), affine)[0]})
    with pytest.raises(UserError, match=f"patient 7: deepbet found no brain: in T1w its mask {said}"):
        extract_brain({"T1w": (volume, affine)}, patient="7")


@pytest.mark.slow
@needs_deepbet
def test_deepbet_finds_nothing_where_nothing_is():
    volume = np.zeros((40, 40, 20), "f4")
    with pytest.raises(UserError, match="deepbet found no brain"):
        extract_brain({"T1w": (volume, np.diag([5.0, 5, 7, 1]))}, "deepbet")


# --- commands ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Put a command on the PATH that writes the mask it is given, and notes its arguments."""

    def install(name, mask, affine, body=""):
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), tmp_path / "reference.nii.gz")
        script = tmp_path / name
        script.write_text(
            f"#!{sys.executable}\n"
            "import pathlib, shutil, sys\n"
            f"here = pathlib.Path({str(tmp_path)!r})\n"
            "(here / 'arguments').write_text(' '.join(sys.argv[1:]))\n"
            "options = dict(zip(sys.argv[1:], sys.argv[2:]))\n"
            "target = options.get('-m') or options['-o'].replace('.nii.gz', '_bet.nii.gz')\n"
            "assert pathlib.Path(options['-i']).is_file()\n"
            f"{body}\n"
            "shutil.copy(here / 'reference.nii.gz', target)\n"
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        return tmp_path / "arguments"

    return install


@pytest.mark.parametrize(
    ("method", "expected"),
    [("hd-bet", "--save_bet_mask --no_bet_image -device cpu --disable_tta"), ("synthstrip", "-m ")],
)
def test_commands_are_called_and_their_masks_read(head, stand_in, method, expected):
    volume, affine, brain = head
    turned, where = canonical(brain, affine)  # as commands may store it
    arguments = stand_in(programs.COMMANDS[method], turned, where)
    found = extract_brain({"FLAIR": (volume, affine)}, method, "7")["FLAIR"]
    np.testing.assert_array_equal(found.mask, brain)
    assert found.source == f"found by {programs.COMMANDS[method]}"
    assert found.warnings == ()
    assert expected in arguments.read_text()


def reason(series, method):
    """Why there is no mask."""
    (error,) = extract_brain(series, method, "7").values()
    assert isinstance(error, UserError)
    return str(error)


@pytest.mark.slow
def test_commands_that_fail_say_why(head, stand_in):
    volume, affine, brain = head
    series = {"T1w": (volume, affine)}
    assert "patient 7: T1w: --brain hd-bet, but there is no command hd-bet" in reason(series, "hd-bet")
    stand_in("hd-bet", brain, affine, "sys.exit('no weights at /root/hd-bet')")
    said = reason(series, "hd-bet")
    assert "ended with status 1 and left no mask" in said
    assert "no weights at /root" in said
    stand_in("hd-bet", brain[:-1], affine)
    assert "the mask of hd-bet has (119, 130, 96) voxels, expected (120, 130, 96)" in reason(series, "hd-bet")
    stand_in("hd-bet", np.zeros_like(brain), affine)
    assert "the mask found by hd-bet is empty" in reason(series, "hd-bet")


# --- existing masks ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["7/FLAIR.nii.gz", "7_FLAIR.nii", "FLAIR.nii.gz"])
def test_own_masks_are_found_and_resampled(head, tmp_path, name):
    volume, affine, brain = head
    (tmp_path / name).parent.mkdir(exist_ok=True)
    for mask, where in ((brain, affine), canonical(brain, affine)):
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), where), tmp_path / name)
        found = extract_brain({"FLAIR": (volume, affine)}, str(tmp_path), "7")["FLAIR"]
        np.testing.assert_array_equal(found.mask, brain)
        assert found.source == f"from {tmp_path / name}"
    coarse = brain[::2, ::2, ::2]
    nib.save(nib.Nifti1Image(coarse.astype(np.uint8), affine @ np.diag([2, 2, 2, 1.0])), tmp_path / name)
    found = extract_brain({"FLAIR": (volume, affine)}, str(tmp_path), "7")["FLAIR"]
    assert dice(found.mask, brain) > 0.95


def test_own_masks_that_do_not_do(head, tmp_path):
    volume, affine, brain = head
    series = {"T1w": (volume, affine)}
    said = reason(series, str(tmp_path))
    assert "patient 7: T1w: no mask of its brain in" in said
    assert "expected 7/T1w.nii.gz, T1w.nii.gz" in said
    (tmp_path / "T1w.nii.gz").write_bytes(b"nothing")
    assert "T1w.nii.gz: unreadable" in reason(series, str(tmp_path))
    far = affine.copy()
    far[:3, 3] += 1000
    nib.save(nib.Nifti1Image(brain.astype(np.uint8), far), tmp_path / "T1w.nii.gz")
    assert "marks nothing in the series" in reason(series, str(tmp_path))
    nib.save(nib.Nifti1Image(np.ones(brain.shape, np.uint8), affine), tmp_path / "T1w.nii.gz")
    (warning,) = extract_brain(series, str(tmp_path), "7")["T1w"].warnings
    assert "ml, expected 900 to 2000; look at it" in warning


def test_a_series_without_a_mask_leaves_the_others_alone(head, tmp_path):
    volume, affine, brain = head
    nib.save(nib.Nifti1Image(brain.astype(np.uint8), affine), tmp_path / "T1w.nii.gz")
    found = extract_brain({"FLAIR": (volume, affine), "T1w": (volume, affine)}, str(tmp_path), "7")
    assert isinstance(found["FLAIR"], UserError)
    np.testing.assert_array_equal(found["T1w"].mask, brain)


# --- a real head -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_brains(real_head):
    if not (deepbet.is_installed() and registration.is_installed()):
        pytest.skip("deepbet or SimpleITK is not installed")
    return extract_brain(real_head.series, patient="06692")


@pytest.mark.slow
def test_masks_of_a_real_head_agree_with_those_of_hd_bet(real_head, real_brains):
    found = real_brains
    for mri_type, brain in found.items():
        assert dice(brain.mask, real_head.masks[mri_type]) > 0.96, mri_type
        assert brain.mask.shape == real_head.series[mri_type][0].shape
        assert 1500 < brain.volume < 1650
    assert found["T1w"].transform is None
    assert found["FLAIR"].transform.shift > 10  # the patient moved


@pytest.mark.slow
def test_real_series_are_stripped_after_it(real_head, real_brains):
    for mri_type, brain in real_brains.items():
        volume, affine = real_head.series[mri_type]
        assert has_skull(volume * brain.mask, affine).verdict == "stripped"


@pytest.mark.slow
def test_order_orientation_rounded_headers_and_threads_do_not_change_the_masks_of_real_series(real_head, real_brains):
    turned = {mri_type: canonical(*one) for mri_type, one in reversed(real_head.series.items())}
    found = extract_brain(
        {name: (volume, affine.astype("f4").astype("f8")) for name, (volume, affine) in turned.items()}, threads=3
    )
    for mri_type, brain in found.items():
        stored = as_stored(brain.mask, real_head.series[mri_type][1])
        np.testing.assert_array_equal(stored, real_brains[mri_type].mask)


@pytest.mark.slow
@pytest.mark.parametrize("mri_type", extraction.BEST_FIRST)
def test_each_real_series_does_alone(real_head, mri_type):
    if not deepbet.is_installed():
        pytest.skip("deepbet is not installed")
    (found,) = extract_brain({mri_type: real_head.series[mri_type]}).values()
    assert dice(found.mask, real_head.masks[mri_type]) > 0.93
