"""Commands for your own studies: studies, predict, segment, explore, report."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import checks
from ..baselines import models
from ..waiting import READ_TIMEOUT
from .running import bundle_module, full_path, named_series, require_run, run_command


def studies(
    input: str | Path | None = None,
    output: str | Path | None = None,
    skull: bool = True,
    rules: str | Path | None = None,
    patient: str | None = None,
    FLAIR: str | Path | None = None,
    T1w: str | Path | None = None,
    T1wCE: str | Path | None = None,
    T2w: str | Path | None = None,
    read_timeout: float = READ_TIMEOUT,
) -> str:
    """Show which patient has which modality from which series, why other series were left out, and possible problems.

    Takes the same input as predict and segment, and computes nothing.

    Args:
        input: folder or zip file of studies: DICOM as exported, or NIfTI files named by modality.
        output: folder for studies.csv and studies.json; nothing is written by default.
        skull: check the voxels of each series for the skull, about a second each; otherwise only headers are read.
        rules: YAML file of rules for sorting DICOM series; by default configs/modality_rules.yaml, which explains them.
        patient: the patient whose series the next options name.
        FLAIR: a file or folder, or the number, description or UID of a series in input; the same for T1w, T1wCE, T2w.
        T1w: as FLAIR.
        T1wCE: as FLAIR.
        T2w: as FLAIR.
        read_timeout: read timeout of a series in seconds; 0 for no limit.
    """
    from tqdm import tqdm

    checks.flag("skull", skull)
    checks.number(0)("read_timeout", read_timeout)
    named = named_series(FLAIR=FLAIR, T1w=T1w, T1wCE=T1wCE, T2w=T2w)
    if input is not None:
        checks.studies("input", full_path(input))
    bundle_module("waiting").limit_reading(read_timeout)
    entries = bundle_module("studies.folders").find_studies(
        full_path(input), full_path(rules), named=named, patient=patient if patient is None else str(patient)
    )
    table = bundle_module("studies.table")
    for entry in tqdm(entries, desc="studies", unit="patient", disable=len(entries) < 2):
        table.describe(entry, skull)
    if output is not None:
        checks.output("output", output)
        table.write_studies(entries, output)
    shown: str = table.as_text(entries)
    return shown


def explore(
    input: str | Path | None = None,
    output: str | Path | None = None,
    pixels: bool = True,
    labels: str | Path | None = None,
    datalist: str | Path | None = None,
    section: str | None = None,
    rules: str | Path | None = None,
    num_workers: int | None = None,
    overwrite: bool = False,
    read_timeout: float = READ_TIMEOUT,
) -> Path:
    """Look at the data: a page of counts, acquisition, labels, and missing, similar or unusual series. Research use only, not for diagnosis.

    Writes explore.html, figures/ (PNG, SVG), tables/ (CSV, JSON) and facts/, which the next run reads. An interrupted run continues when
    it is started again.

    Args:
        input: folder or zip file of studies, as for predict, or a folder with train/ and test/; with --datalist, the folder of its paths.
        output: folder for the results.
        pixels: read the pixels; otherwise only headers, without empty slices, skull, intensities and near-duplicates.
        labels: CSV of labels; by default train_labels.csv in input, where there is one.
        datalist: data list whose patients are examined.
        section: of the data list: training, validation or test; all by default.
        rules: YAML file of rules for sorting DICOM series; by default configs/modality_rules.yaml, which explains them.
        num_workers: processes that read (2).
        overwrite: replace an earlier page in output; facts of unchanged series are reused.
        read_timeout: read timeout of a series in seconds, after which it counts as failed; 0 for no limit.

    Returns:
        The page; open it in a browser.
    """
    if input is None and datalist is None:
        raise ValueError(
            "no studies; give a folder or a zip file of them (--input STUDIES), or a data list (--datalist FILE)"
        )
    options = locals()
    for package in ("jinja2", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise ImportError(
                f"{package}, which makes the page, is not installed: pip install 'brats-mri-radiogenomics[report]'"
            )
    run_command("explore", {**options, "overrides": {}})
    return Path(str(output)) / "explore.html"


# Longer than other functions, for every option stands here with its meaning.
def predict(
    input: str | Path | None = None,
    output: str | Path | None = None,
    segmenter: str | Path | None = None,
    classifier: str | Path | None = None,
    mri_types: str | Sequence[str] | None = None,
    sample_submission: str | Path | None = None,
    min_tumor_ratio: float | None = None,
    max_contours: int | None = None,
    zoom: float | None = None,
    prior: float | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    runtime: str | None = None,
    fast: bool = False,
    exact: bool = False,
    dicom: bool = False,
    deidentify: bool = False,
    key_file: str | Path | None = None,
    report: bool | None = None,
    overwrite: bool = False,
    brain: str | Path | None = None,
    rules: str | Path | None = None,
    patient: str | None = None,
    FLAIR: str | Path | None = None,
    T1w: str | Path | None = None,
    T1wCE: str | Path | None = None,
    T2w: str | Path | None = None,
    model: str | None = None,
    **overrides: Any,
) -> Path:
    """Segment tumours and predict MGMT promoter methylation. Research use only, not for diagnosis.

    Writes masks/<patient>_<mri_type>.nii.gz (1 tumour, 2 enhancing tumour, marked in T1wCE only), submission.csv and patients.json,
    and prints a table of the patients. An interrupted prediction continues when it is started again.

    Args:
        input: folder or zip file of studies: DICOM as exported, or NIfTI files named by modality; `studies` shows what is found.
        output: folder for the results.
        segmenter: segmentation weights: a file, released, or synthetic; by default those of the bundle.
        classifier: classifier weights for all modalities, a folder of model_<mri_type>.pt, or a cross-validation's, whose folds
            and seeds are averaged; by default those of the bundle.
        mri_types: modalities whose probabilities are averaged, FLAIR,T1wCE for example; all by default.
        sample_submission: CSV with the requested patients, whose order and style are kept.
        min_tumor_ratio: tumour over brain area that a slice must exceed (0.025); negative keeps all slices.
        max_contours: largest number of tumour contours in a slice that is kept (5).
        zoom: magnification about the centre of a slice (1.2).
        prior: probability of patients without a usable slice (0.5).
        device: cpu, cuda, cuda:1, …; a GPU by default where there is one.
        batch_size: slices in one forward pass (16; 4 with torch on a CPU).
        num_workers: processes that read ahead (1).
        runtime: openvino (CPUs; the default where it is installed), torch, inductor or eager.
        fast: compute in 8 bits (CPUs, OpenVINO), and skip slices between two others 4 mm apart that show no tumour.
        exact: compute in float32.
        dicom: write dicom/<patient>/<mri_type>_seg.dcm (DICOM SEG) and report_sr.dcm (DICOM SR) for DICOM series as well.
        deidentify: pseudonyms for patients in all results and messages, and no dates, descriptions or file names; in DICOM the series' UIDs stay.
        key_file: CSV for the key to the pseudonyms, outside of output; by default none is kept.
        report: write report/report.html, web pages of the results, as well; by default where its packages are installed.
        overwrite: replace the results of an earlier prediction in output.
        brain: how the brain is found in series that show the skull: auto (the first of these that is installed), deepbet, hd-bet, synthstrip,
            a folder of masks (<patient>_<mri_type>_brain.nii.gz), or never, which uses such series as they are.
        rules: YAML file of rules for sorting DICOM series; by default configs/modality_rules.yaml, which explains them.
        patient: the patient whose series the next options name.
        FLAIR: a file or folder, or the number, description or UID of a series in input; the same for T1w, T1wCE, T2w.
        T1w: as FLAIR.
        T1wCE: as FLAIR.
        T2w: as FLAIR.
        model: one of the field's other models instead of this bundle's method: cnn3d, resnet10, efficientnet2d, efficientnet3d, forest or size.
        overrides: further settings of configs/inference.yaml, or with model of configs/inference_baseline.yaml.
    """
    options = locals()
    if options.pop("report") is not None:
        checks.flag("report", report)
    settings = _precision(options.pop("fast"), options.pop("exact"))
    job, run = "inference", None
    if (kind := models.takes(options["model"] or models.METHOD)) == "method":
        del options["model"]
    else:
        job, run = "inference_baseline", ["$@inference"] if kind == "features" else None
        if kind == "stack" and dicom is False:
            del options["dicom"]
    run_command(job, options, run, **settings)
    pages = all(importlib.util.find_spec(name) for name in ("jinja2", "matplotlib"))
    if report or (report is None and pages and int(os.environ.get("RANK") or 0) == 0):
        bundle_module("report.pages").write_report(str(output), None, True)
    return Path(str(output))


def segment(
    input: str | Path | None = None,
    output: str | Path | None = None,
    segmenter: str | Path | None = None,
    fuse: bool = False,
    register: bool = False,
    device: str | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    runtime: str | None = None,
    fast: bool = False,
    exact: bool = False,
    deidentify: bool = False,
    key_file: str | Path | None = None,
    overwrite: bool = False,
    brain: str | Path | None = None,
    rules: str | Path | None = None,
    patient: str | None = None,
    FLAIR: str | Path | None = None,
    T1w: str | Path | None = None,
    T1wCE: str | Path | None = None,
    T2w: str | Path | None = None,
    **overrides: Any,
) -> Path:
    """Segment tumours only. Research use only, not for diagnosis.

    Writes masks/<patient>_<mri_type>.nii.gz (1 tumour, 2 enhancing tumour, marked in T1wCE only) and volumes.csv, and prints a table of
    the patients. An interrupted segmentation continues when it is started again.

    Args:
        input: folder or zip file of studies: DICOM as exported, or NIfTI files named by modality; `studies` shows what is found.
        output: folder for the results.
        segmenter: segmentation weights: a file, released, or synthetic; by default those of the bundle.
        fuse: one mask per patient, masks/<patient>.nii.gz, from all series along three planes, on the grid of FLAIR where there is one
            (--reference); about three times the work.
        register: with fuse, first align the series of a patient who may have moved between them.
        device: cpu, cuda, cuda:1, …; a GPU by default where there is one.
        batch_size: slices in one forward pass (16; 4 with torch on a CPU).
        num_workers: processes that read ahead (1).
        runtime: openvino (CPUs; the default where it is installed), torch, inductor or eager.
        fast: compute in 8 bits (CPUs, OpenVINO), and without fuse skip slices between two others 4 mm apart that show no tumour.
        exact: compute in float32.
        deidentify: pseudonyms for patients in all results and messages, and no dates, descriptions or file names.
        key_file: CSV for the key to the pseudonyms, outside of output; by default none is kept.
        overwrite: replace the results of an earlier segmentation in output.
        brain: how the brain is found in series that show the skull: auto (the first of these that is installed), deepbet, hd-bet, synthstrip,
            a folder of masks (<patient>_<mri_type>_brain.nii.gz), or never, which uses such series as they are.
        rules: YAML file of rules for sorting DICOM series; by default configs/modality_rules.yaml, which explains them.
        patient: the patient whose series the next options name.
        FLAIR: a file or folder, or the number, description or UID of a series in input; the same for T1w, T1wCE, T2w.
        T1w: as FLAIR.
        T1wCE: as FLAIR.
        T2w: as FLAIR.
        overrides: further settings of configs/inference.yaml, or with fuse of configs/fuse_segmentation.yaml.
    """
    options = locals()
    settings = _precision(options.pop("fast"), options.pop("exact"))
    checks.flag("fuse", options.pop("fuse"))
    checks.flag("register", register)
    if not fuse and options.pop("register"):
        raise ValueError("--register aligns the series that --fuse combines; add --fuse")
    if fuse:
        settings.pop("coarse_step", None)
        run_command("fuse_segmentation", options, **settings)
    else:
        run_command("inference", options, ["$@segmentation"], job="segmentation", **settings)
    return Path(str(output))


def _precision(fast: bool, exact: bool) -> dict[str, Any]:
    """Settings behind --fast and --exact."""
    checks.flag("fast", fast)
    checks.flag("exact", exact)
    if fast and exact:
        raise ValueError("--fast and --exact exclude each other; choose one")
    return {"precision": "int8", "coarse_step": 4.0} if fast else {"precision": "fp32"} if exact else {}


def report(
    run: str | Path,
    output: str | Path | None = None,
    images: bool = True,
    overwrite: bool = False,
) -> Path:
    """Write the report of a training run, an evaluation, a cross-validation or a prediction: web pages that need no network.

    Writes report.html, patients/<patient>.html, figures/ (PNG, SVG) and tables/ (CSV, JSON).

    Args:
        run: the folder that one of these commands wrote.
        output: folder for the report, or an .html file, with the rest in <name>_files beside it; <run>/report by default.
        images: show the patients' slices and masks.
        overwrite: replace an earlier report.

    Returns:
        The first page; open it in a browser.
    """
    require_run(run, output)
    return bundle_module("report.pages").write_report(
        str(run), None if output is None else str(output), overwrite, images
    )
