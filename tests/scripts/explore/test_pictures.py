"""Pictures of series: what they show, and which series is meant."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from scripts import cli
from scripts.explore import pictures
from scripts.explore.pictures import PictureError, Shown, draw_montage, read_shown
from tests.custom_transforms.stacks import brain, planes
from tests.scripts.explore.conftest import write_nifti


def test_windows(write_series, tmp_path):
    stack = planes(4)
    write_series(stack, WindowCenter=500, WindowWidth=400)
    source = str(tmp_path / "series")
    header = read_shown(source, "a")
    assert "header" in header.window
    # PS3.3 C.11.2.1.2.1: linear between 300 and 699
    expected = np.clip((stack.astype(float) - 499.5) / 399 + 0.5, 0, 1) * 255
    np.testing.assert_allclose(header.slices, expected, atol=1)
    fixed = read_shown(source, "a", (100, 600))
    np.testing.assert_array_equal(fixed.slices, np.rint(np.clip((stack - 100.0) / 500, 0, 1) * 255))
    percentile = read_shown(source, "a", "percentile")
    white = np.percentile(stack[stack > 0], 99.5)
    np.testing.assert_allclose(percentile.slices, np.rint(np.clip(stack / white, 0, 1) * 255), atol=1)


def test_without_a_window_the_percentile_counts_and_the_header_is_refused(write_series, tmp_path):
    write_series(planes(4))
    source = str(tmp_path / "series")
    assert "percentile" in read_shown(source, "a").window
    with pytest.raises(PictureError, match=r"no window or VOI LUT .*--window percentile"):
        read_shown(source, "a", "header")


def test_slices_are_in_geometric_order_and_masks_lie_on_them(tmp_path):
    values = np.zeros((20, 24, 6), np.float32)
    for z in range(6):
        values[4 : 6 + 2 * z, 4:20, z] = 100
    labels = np.zeros(values.shape, np.uint8)
    labels[6:10, 8:12, 4] = 1
    labels[6:8, 8:10, 4] = 2
    image, mask = write_nifti(values, tmp_path / "a.nii"), write_nifti(labels, tmp_path / "mask.nii.gz")
    shown = read_shown(str(image), "a", mask=mask)
    assert shown.slices.shape == (6, 24, 20)
    assert ((shown.slices > 0).sum((1, 2)) == [(values[..., z] > 0).sum() for z in range(6)]).all()
    assert shown.largest == 4
    np.testing.assert_array_equal(shown.regions[4].sum((1, 2)), [16, 4])
    # the affine turns both axes: rows and columns are those of the array
    np.testing.assert_array_equal(shown.regions[4, 1], labels[..., 4].T == 2)
    whole = np.where(labels == 2, 4, labels)
    brats = read_shown(str(image), "a", mask=write_nifti(whole.astype(np.uint8), tmp_path / "brats.nii"))
    np.testing.assert_array_equal(brats.regions, shown.regions)


def test_a_mask_of_another_series_is_refused(tmp_path):
    image = write_nifti(brain(), tmp_path / "a.nii")
    mask = write_nifti(np.ones((5, 5, 5), np.uint8), tmp_path / "mask.nii")
    with pytest.raises(PictureError, match="5 x 5 x 5 voxels, the series 24 x 28 x 20"):
        read_shown(str(image), "a", mask=mask)
    with pytest.raises(PictureError, match="no such mask"):
        read_shown(str(image), "a", mask=tmp_path / "gone.nii")


@pytest.mark.slow
def test_a_montage_takes_every_nth_slice_and_paints_the_mask(tmp_path):
    image = write_nifti(brain(), tmp_path / "a.nii")
    labels = np.zeros(brain().shape, np.uint8)
    labels[8:16, 8:20, 5:15] = 1
    plain = read_shown(str(image), "a")
    masked = read_shown(str(image), "a", mask=write_nifti(labels, tmp_path / "m.nii"))
    pages = {most: draw_montage(plain, most) for most in (30, 5)}
    assert pages[30].height > pages[5].height
    grey, coloured = np.asarray(pages[30]).astype(int), np.asarray(draw_montage(masked, 30)).astype(int)

    def blue(page):
        return (page[..., 2] - page[..., 0] > 60).sum()

    assert blue(grey[80:-40]) == 0
    assert blue(coloured[80:-40]) > 1000


@pytest.mark.slow
def test_gif_has_all_slices_in_order(tmp_path, studies):
    cli.show(studies, tmp_path / "out", patient="00002", per_second=5, video=False)
    with Image.open(tmp_path / "out" / "00002_FLAIR.gif") as gif:
        assert gif.n_frames == 20
        assert gif.info["duration"] == 200
        seen = []
        for frame in range(20):
            gif.seek(frame)
            seen.append((np.asarray(gif.convert("L"))[60:-60, 60:-60] > 12).mean())
    shown = read_shown(str(studies / "00002" / "00002_flair.nii.gz"), "a")
    areas = (shown.slices > 12).mean((1, 2))
    assert np.corrcoef(seen, areas)[0, 1] > 0.9


def test_one_patient_of_studies_with_masks_of_a_run(tmp_path, studies):
    labels = np.zeros(brain().shape, np.uint8)
    labels[8:16, 8:20, 5:15] = 1
    write_nifti(labels, tmp_path / "run" / "masks" / "00001_FLAIR.nii.gz")
    summary = cli.show(studies, tmp_path / "out", patient="00001", mask=tmp_path / "run", animation=False)
    assert [file.split("/")[-1] for file in summary["written"]] == ["00001_FLAIR.png", "00001_T1wCE.png"]
    pages = {
        name: np.asarray(Image.open(tmp_path / "out" / f"00001_{name}.png")).astype(int) for name in ("FLAIR", "T1wCE")
    }
    coloured = {name: ((page[..., 2] - page[..., 0]) > 60).sum() for name, page in pages.items()}
    assert coloured["FLAIR"] > 1000 > coloured["T1wCE"]
    with pytest.raises(ValueError, match=r"already exists.*--overwrite"):
        cli.show(studies, tmp_path / "out", patient="00001", modality="FLAIR", animation=False)
    cli.show(studies, tmp_path / "out", patient="00001", modality="FLAIR", animation=False, overwrite=True)


def test_patients_by_label(tmp_path, studies):
    summary = cli.show(studies, tmp_path / "out", label_folder=tmp_path / "labels.csv")
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert written == ["0/00002_FLAIR.png", "1/00001_FLAIR.png", "labels_FLAIR.png"]
    assert len(summary["written"]) == 3
    assert "passed over" not in summary
    summary = cli.show(studies, tmp_path / "t1", label_folder=tmp_path / "labels.csv", modality="T1wCE")
    assert summary["passed over"] == {"00002": "it has no T1wCE"}
    (tmp_path / "labels.csv").write_text("BraTS21ID,MGMT_value\n00077,1\n")
    with pytest.raises(ValueError, match="it has no label for any of 00001, 00002, 00003"):
        cli.show(studies, tmp_path / "none", label_folder=tmp_path / "labels.csv")


def test_a_series_by_its_path(write_series, tmp_path):
    write_series(planes(5, 20, 20), "P1/scan", SeriesDescription="x")
    summary = cli.show(tmp_path / "P1" / "scan", tmp_path / "out", animation=False, window=[0, 900])
    assert summary["written"] == [str(tmp_path / "out" / "P1_scan.png")]


def test_what_is_refused(tmp_path, studies):
    with pytest.raises(ValueError, match="holds 00001, 00002, 00003; say which with --patient"):
        cli.show(studies, tmp_path / "out")
    with pytest.raises(ValueError, match="patient 00002 has no T2w: found FLAIR"):
        cli.show(studies, tmp_path / "out", patient="00002", modality="T2w")
    with pytest.raises(ValueError, match="--window bright: expected one of auto"):
        cli.show(studies, tmp_path / "out", patient="00002", window="bright")
    with pytest.raises(ValueError, match="--window"):
        cli.show(studies, tmp_path / "out", patient="00002", window=(9, 3))
    with pytest.raises(ValueError, match="no output folder"):
        cli.show(studies)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(find_spec("imageio_ffmpeg") is not None, reason="imageio-ffmpeg is installed")
def test_mp4_needs_its_extra(tmp_path, studies):
    with pytest.raises(ImportError, match=r"pip install '\.\[video\]'"):
        cli.show(studies, tmp_path / "out", patient="00002", video=True)


def test_mp4_can_be_played(tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="needs the extra [video]")
    shown = read_shown(str(write_nifti(brain(), tmp_path / "a.nii")), "a")
    pictures.write_mp4(shown, tmp_path / "a.mp4")
    frames, _ = ffmpeg.count_frames_and_secs(str(tmp_path / "a.mp4"))
    assert frames == 20


def test_title_gives_plane_and_spacing(tmp_path):
    shown: Shown = read_shown(str(write_nifti(brain(), tmp_path / "a.nii")), "P1, FLAIR")
    first, second = shown.title()
    assert first == "P1, FLAIR"
    assert "axial, 20 slices, 3.00 mm apart, pixels 1.00 x 1.00 mm" in second


def test_command_line_reads_windows_and_names(monkeypatch, capsys, tmp_path, studies):
    words = [
        "show",
        studies,
        "--output",
        tmp_path / "o",
        "--patient",
        "00001",
        "--modality",
        "FLAIR",
        "--window",
        "0,500",
    ]
    monkeypatch.setattr(sys, "argv", ["radiogenomics", *map(str, words), "--animation", "False"])
    cli.main()
    assert "00001_FLAIR.png" in capsys.readouterr().out
    assert (tmp_path / "o" / "00001_FLAIR.png").is_file()
