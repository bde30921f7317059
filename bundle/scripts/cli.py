"""The command ``radiogenomics``: a thin layer over the bundle's configurations, for people who need not know of bundles.

Every command is a function, and the same functions are the Python API (``from radiogenomics import predict``). Nothing heavy is
imported before a command needs it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from . import checks
from .datalists import MRI_TYPES
from .environment import BUNDLE_ROOT, NEEDED, OPTIONAL, installed
from .outputs import keep_apart


def _scripts(module: str) -> ModuleType:
    """A module of the bundle under the name that its configurations use, so that it is loaded once."""
    if str(BUNDLE_ROOT) not in sys.path:
        sys.path.insert(0, str(BUNDLE_ROOT))
    package = importlib.import_module("scripts")
    if not package.__file__ or Path(package.__file__).resolve().parent != BUNDLE_ROOT / "scripts":
        raise ImportError(
            f"another package called 'scripts' is in the way: {package.__file__}; start from another folder, or in a process "
            "that has not imported it"
        )
    with _quick_imports():
        return importlib.import_module(f"scripts.{module}")


@contextlib.contextmanager
def _quick_imports() -> Iterator[None]:
    """Imports that no garbage collection interrupts: MONAI's take a third less, and so does the interpreter's end.

    What they made stays to the end anyway, and is left out of later collections.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.freeze()
            gc.enable()


def run_config(config: str, **overrides: Any) -> None:
    """Run one of the bundle's configurations, as ``python -m monai.bundle run --config_file …`` does.

    In one of several processes that ``torchrun`` started, ``configs/distributed.yaml`` is laid over it.

    Args:
        config: its name, ``train_segmentation`` for example.
        overrides: values for ids of the configuration, in which MONAI's signs mean what they do there: ``$`` an expression, ``@`` a
            reference, ``%`` a macro, ``#`` a step down; None leaves the configuration's own.

    Raises:
        ValueError: when the configuration has no such id, or a value can't be meant.
    """
    values = {key: value for key, value in overrides.items() if value is not None}
    typed = checks.as_typed(values)
    checks.settings(config, typed)
    if "output_dir" in typed:
        keep_apart(typed["output_dir"], typed)
    _scripts("runs")
    from monai.bundle import ConfigWorkflow

    files = [str(BUNDLE_ROOT / "configs" / f"{config}.yaml")]
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        files.append(str(BUNDLE_ROOT / "configs" / "distributed.yaml"))
    workflow = ConfigWorkflow(
        config_file=files,
        meta_file=str(BUNDLE_ROOT / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type=None,
        **values,
    )
    try:
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    except RuntimeError as error:
        mistake = _mistake(error)
        if mistake is None:
            raise
        raise mistake from None


def _run(config: str, run: Sequence[str] | None = None, **values: Any) -> None:
    """:func:`run_config` with what a person typed, every text of which is taken as it is.

    Args:
        config: name of the configuration.
        run: what is run of it, where that is not its own ``run``.
        values: for ids of the configuration.
    """
    run_config(config, run=run, **checks.as_values(values))


def _modalities(mri_types: str | Sequence[str] | None) -> list[str] | None:
    if mri_types is None:
        return None
    names = mri_types.split(",") if isinstance(mri_types, str) else mri_types
    checks.some_of(MRI_TYPES)("mri_types", names)
    return list(names)


def _path(path: str | Path | None) -> str | None:
    return None if path is None else str(Path(str(path)).expanduser().resolve())


def _segmenter(segmenter: str | Path | None) -> str | None:
    """A file's path, or the name of the bundle's own weights."""
    return str(segmenter) if segmenter in ("synthetic", "released") else _path(segmenter)


def _stage(stage: str) -> str:
    if stage not in ("segmentation", "classification"):
        raise ValueError(f"stage {stage!r}: expected segmentation or classification")
    return stage


def predict(
    input: str | Path,
    output: str | Path,
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
    overwrite: bool = False,
    **overrides: Any,
) -> Path:
    """Segment tumours and predict MGMT promoter methylation. Research use only, not for diagnosis.

    Writes masks/<patient>_<mri_type>.nii.gz (1 tumour, 2 enhancing tumour, told in T1wCE alone), submission.csv and patients.json,
    and prints a table of the patients. An interrupted prediction goes on when it is started again.

    Args:
        input: studies: a folder in the challenge's layout, one study, or BraTS NIfTI folders.
        output: folder for the results.
        segmenter: segmentation weights: a file, released, or synthetic; by default those of the bundle.
        classifier: classifier weights for all modalities, a folder of model_<mri_type>.pt, or one of a cross-validation, whose folds
            and seeds are averaged; by default those of the bundle.
        mri_types: modalities whose probabilities are averaged, FLAIR,T1wCE for example; all by default.
        sample_submission: CSV whose patients are asked for, in its order and style.
        min_tumor_ratio: tumour over brain area that a slice must exceed (0.025); negative keeps all slices.
        max_contours: tumour contours in a slice at most (5).
        zoom: magnification about the centre of a slice (1.2).
        prior: probability of patients without a usable slice (0.5).
        device: cpu, cuda, cuda:1, …; found by itself.
        batch_size: slices in one forward pass (16).
        num_workers: processes that read ahead (1).
        runtime: openvino (CPUs; used by itself where it is installed), torch, inductor or eager.
        fast: compute in 8 bits (CPUs, OpenVINO), and pass over slices between two others 4 mm apart that show no tumour.
        exact: compute in float32.
        dicom: write dicom/<patient>/<mri_type>_seg.dcm (DICOM SEG) and report_sr.dcm (DICOM SR) for DICOM series as well.
        deidentify: leave names, dates and the like out of what dicom writes; it keeps the UIDs of the series.
        overwrite: replace the results of an earlier prediction in output.
        overrides: further settings of configs/inference.yaml.

    Returns:
        The output folder.
    """
    _run(
        "inference",
        dataset_dir=_path(input),
        output_dir=_path(output),
        segmenter=_segmenter(segmenter),
        classifier=_path(classifier),
        mri_types=_modalities(mri_types),
        sample_submission=_path(sample_submission),
        min_tumor_ratio=min_tumor_ratio,
        max_contours=max_contours,
        zoom=zoom,
        prior=prior,
        device=device,
        batch_size=batch_size,
        num_workers=num_workers,
        runtime=runtime,
        dicom=dicom,
        deidentify=deidentify,
        overwrite=overwrite,
        **{**_precision(fast, exact), **overrides},
    )
    return Path(output)


def segment(
    input: str | Path,
    output: str | Path,
    segmenter: str | Path | None = None,
    fuse: bool = False,
    device: str | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    runtime: str | None = None,
    fast: bool = False,
    exact: bool = False,
    overwrite: bool = False,
    **overrides: Any,
) -> Path:
    """Segment tumours, and nothing else. Research use only, not for diagnosis.

    Writes masks/<patient>_<mri_type>.nii.gz (1 tumour, 2 enhancing tumour, told in T1wCE alone) and volumes.csv, and prints a table of
    the patients. An interrupted segmentation goes on when it is started again.

    Args:
        input: studies: a folder in the challenge's layout, one study, or BraTS NIfTI folders.
        output: folder for the results.
        segmenter: segmentation weights: a file, released, or synthetic; by default those of the bundle.
        fuse: one mask a patient, masks/<patient>.nii.gz, from all series along three planes, on the grid of FLAIR where there is one
            (--reference); about three times the work.
        device: cpu, cuda, cuda:1, …; found by itself.
        batch_size: slices in one forward pass (16).
        num_workers: processes that read ahead (1).
        runtime: openvino (CPUs; used by itself where it is installed), torch, inductor or eager.
        fast: compute in 8 bits (CPUs, OpenVINO), and without fuse pass over slices between two others 4 mm apart that show no tumour.
        exact: compute in float32.
        overwrite: replace the results of an earlier segmentation in output.
        overrides: further settings of configs/inference.yaml, or with fuse of configs/fuse_segmentation.yaml.

    Returns:
        The output folder.
    """
    checks.flag("fuse", fuse)
    of_predict = sorted({"classifier", "deidentify", "dicom", "flips", "prior", "sample_submission"} & set(overrides))
    if of_predict:
        raise ValueError(f"segment has no setting {', '.join(of_predict)}: use predict, which segments too")
    settings = {**_precision(fast, exact), **overrides}
    if fuse:
        settings.pop("coarse_step", None)
    else:
        settings = {"job": "segmentation", **settings}
    _run(
        "fuse_segmentation" if fuse else "inference",
        run=None if fuse else ["$@segmentation"],
        dataset_dir=_path(input),
        output_dir=_path(output),
        segmenter=_segmenter(segmenter),
        device=device,
        batch_size=batch_size,
        num_workers=num_workers,
        runtime=runtime,
        overwrite=overwrite,
        **settings,
    )
    return Path(output)


def _precision(fast: bool, exact: bool) -> dict[str, Any]:
    """Settings behind --fast and --exact."""
    checks.flag("fast", fast)
    checks.flag("exact", exact)
    if fast and exact:
        raise ValueError("--fast and --exact exclude each other; choose one")
    return {"precision": "int8", "coarse_step": 4.0} if fast else {"precision": "fp32"} if exact else {}


def datalist(
    input: str | Path,
    output: str | Path,
    labels: str | Path | None = None,
    folds: int = 5,
    seed: int = 67,
    overwrite: bool = False,
) -> Path:
    """Write the data list (JSON) of a folder: the challenge's Task 1 or Task 2 in any of its layouts, or any studies.

    Args:
        input: the folder.
        output: the JSON file.
        labels: CSV with BraTS21ID,MGMT_value; train_labels.csv in the folder by default, where there is one.
        folds: number of folds.
        seed: of the assignment to folds.
        overwrite: replace an existing file.

    Returns:
        The file.
    """
    for name, value, least in (("folds", folds, 2), ("seed", seed, 0)):
        checks.number(least, whole=True)(name, value)
    checks.output_file("output", output)
    listed = _scripts("datalists").build_datalist(str(input), str(output), labels, folds, seed, overwrite)
    counts = ", ".join(f"{len(listed[section])} in {section}" for section in ("training", "test"))
    logging.getLogger(__name__).info("%s: %s", output, counts)
    return Path(output)


def prepare(
    stage: str,
    prepared: str | Path,
    datalist: str | Path | None = None,
    input: str | Path | None = None,
    segmenter: str | Path | None = None,
    mri_types: str | Sequence[str] | None = None,
    device: str | None = None,
    **overrides: Any,
) -> Path:
    """Prepare the slices of a stage; what is prepared already, and with the same settings, costs nothing.

    Args:
        stage: segmentation or classification.
        prepared: folder for the prepared series.
        datalist: data list.
        input: folder of studies; with a data list, the folder that its paths are relative to.
        segmenter: segmentation weights (classification only).
        mri_types: modalities, FLAIR,T1wCE for example (classification only); all by default.
        device: cpu, cuda, …; found by itself (classification only).
        overrides: further settings of configs/prepare_<stage>.yaml.

    Returns:
        The folder.
    """
    _run(
        f"prepare_{_stage(stage)}",
        prepared_dir=_path(prepared),
        datalist=_path(datalist),
        dataset_dir=_path(input),
        segmenter=_segmenter(segmenter),
        mri_types=_modalities(mri_types),
        device=device,
        **overrides,
    )
    return Path(prepared)


def train(
    stage: str,
    datalist: str | Path,
    prepared: str | Path,
    output: str | Path,
    mri_types: str | Sequence[str] = MRI_TYPES,
    fold: int | None = None,
    init: str | None = None,
    device: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **overrides: Any,
) -> Path:
    """Train a stage: one segmenter, or one classifier for each modality in a folder of its own.

    Args:
        stage: segmentation or classification.
        datalist: data list.
        prepared: folder of the prepared series.
        output: folder of the run; classifiers go to <output>/<mri_type>.
        mri_types: modalities to train a classifier for.
        fold: that is held out (0).
        init: imagenet (the default), none (random), a weights file, or for segmentation synthetic: the bundle's, trained on synthetic brains.
        device: cpu, cuda, …; found by itself.
        resume: go on with an interrupted run.
        overwrite: replace an earlier run.
        overrides: further settings of configs/train_<stage>.yaml, --max_epochs 20 for example.

    Returns:
        The output folder.
    """
    places: dict[str, list[tuple[Path, dict[str, str]]]] = {"segmentation": [(Path(output), {})]}
    if _stage(stage) == "classification":
        names = _modalities(mri_types) or []
        places[stage] = [(Path(output) / name, {"mri_type": name}) for name in names]
    for folder, settings in places[stage]:
        _run(
            f"train_{stage}",
            datalist=_path(datalist),
            prepared_dir=_path(prepared),
            output_dir=_path(folder),
            fold=fold,
            init=init,
            device=device,
            resume=resume,
            overwrite=overwrite,
            **settings,
            **overrides,
        )
    return Path(output)


def pretrain(
    output: str | Path,
    init: str | None = None,
    label_maps: str | Path | None = None,
    device: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **overrides: Any,
) -> Path:
    """Train a segmenter on slices that are drawn while it trains: of synthetic brains, or cut anew from labelled volumes (--datalist).

    `radiogenomics phantom --preview FILE.png` shows slices of synthetic brains; without a data list, scores are those of such brains,
    not of real tumours. The weights are a segmenter, and a start for `train segmentation --init`.

    Args:
        output: folder of the run; its weights are segmentation.pt.
        init: imagenet, none (random), or a weights file.
        label_maps: folder of brain segmentations in NIfTI to draw brains from; the atlas in nilearn by default.
        device: cpu, cuda, …; found by itself.
        resume: go on with an interrupted run.
        overwrite: replace an earlier run.
        overrides: further settings of configs/pretrain_segmentation.yaml, --image_size 128 for example.

    Returns:
        The output folder.
    """
    _run(
        "pretrain_segmentation",
        output_dir=_path(output),
        init=init,
        label_maps=_path(label_maps),
        device=device,
        resume=resume,
        overwrite=overwrite,
        **overrides,
    )
    return Path(output)


def evaluate(
    stage: str,
    datalist: str | Path,
    prepared: str | Path,
    output: str | Path,
    segmenter: str | Path | None = None,
    classifier: str | Path | None = None,
    mri_types: str | Sequence[str] | None = None,
    fold: int | None = None,
    device: str | None = None,
    overwrite: bool = False,
    **overrides: Any,
) -> dict[str, Any]:
    """Evaluate a stage on held-out patients and write metrics.json and its tables.

    Args:
        stage: segmentation or classification.
        datalist: data list.
        prepared: folder of the prepared series.
        output: folder for the results.
        segmenter: segmentation weights (segmentation only).
        classifier: classifier weights or their folder (classification only).
        mri_types: modalities (classification only).
        fold: that is evaluated (0).
        device: cpu, cuda, …; found by itself.
        overwrite: replace earlier results.
        overrides: further settings of configs/evaluate_<stage>.yaml.

    Returns:
        The metrics.
    """
    import json

    _run(
        f"evaluate_{_stage(stage)}",
        datalist=_path(datalist),
        prepared_dir=_path(prepared),
        output_dir=_path(output),
        segmenter=_segmenter(segmenter),
        classifier=_path(classifier),
        mri_types=_modalities(mri_types),
        fold=fold,
        device=device,
        overwrite=overwrite,
        **overrides,
    )
    metrics: dict[str, Any] = json.loads((Path(output) / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def crossvalidate(
    output: str | Path,
    datalist: str | Path | None = None,
    segmentation_datalist: str | Path | None = None,
    segmenter: str | Path | None = None,
    prepared: str | Path | None = None,
    stages: str | Sequence[str] = ("classification",),
    folds: int | Sequence[int] | None = None,
    selection: str | None = None,
    seeds: int | Sequence[int] = (67,),
    mri_types: str | Sequence[str] = MRI_TYPES,
    device: str | None = None,
    overwrite: bool = False,
    **overrides: Any,
) -> dict[str, Any]:
    """Cross-validate a stage or both: train on all folds but one, predict that one, in turn, and evaluate all predictions.

    Refuses to train where a person is on both sides of a split. Writes predictions.csv (every patient, out of fold),
    metrics.json and tables/. An interrupted run goes on when it is started again.

    Args:
        output: folder of the run.
        datalist: data list of Task 2.
        segmentation_datalist: data list of Task 1, for stage 1.
        segmenter: segmentation weights for stage 2; those of stage 1's first fold where it is cross-validated too.
        prepared: folder of prepared series; one in output by default.
        stages: classification, segmentation, or segmentation,classification.
        folds: that are held out in turn, 0,1,2 for example; all by default.
        selection: inner (the epoch whose weights are kept is chosen on a further fold; the default) or outer (on the held-out fold, as
            the method does, which flatters the figures).
        seeds: of the trainings of stage 2, 67,68 for example.
        mri_types: modalities to train classifiers for.
        device: cpu, cuda, …; found by itself.
        overwrite: replace an earlier run in output.
        overrides: further settings of configs/crossvalidate.yaml, --train_classification '{max_epochs: 20}' for example.

    Returns:
        The metrics.
    """
    import json

    _run(
        "crossvalidate",
        output_dir=_path(output),
        datalist=_path(datalist),
        segmentation_datalist=_path(segmentation_datalist),
        segmenter=_segmenter(segmenter),
        prepared_dir=_path(prepared),
        stages=stages.split(",") if isinstance(stages, str) else list(stages),
        folds=None if folds is None else _numbers("folds", folds),
        selection=selection,
        seeds=_numbers("seeds", seeds),
        mri_types=_modalities(mri_types),
        device=device,
        overwrite=overwrite,
        **overrides,
    )
    metrics: dict[str, Any] = json.loads((Path(output) / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def _numbers(name: str, values: int | Sequence[int]) -> list[int]:
    numbers = [values] if isinstance(values, int) else list(values)
    if not numbers or not all(isinstance(one, int) and not isinstance(one, bool) for one in numbers):
        raise ValueError(f"--{name} {values!r}: expected whole numbers, 0,1,2 for example")
    return numbers


def explain(
    run: str | Path,
    patients: str | Sequence[str] | None = None,
    mri_types: str | Sequence[str] | None = None,
    limit: int | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Show what the classifiers of a run looked at: Grad-CAM, occlusion, and the check that maps depend on the weights.

    Writes explanations/ into the folder of the run; `radiogenomics report` shows it. Done series are passed over. Patients of a
    cross-validation are explained with the models that did not see them, those of the first seed.

    Args:
        run: folder of a prediction, an evaluation of stage 2, or a cross-validation.
        patients: those to explain, 00001,00002 for example; all by default.
        mri_types: modalities to explain; all that were classified by default.
        limit: so many series at most.
        device: cpu, cuda, …

    Returns:
        What came out, by patient and modality.
    """
    names = [patients] if isinstance(patients, (str, int)) else patients
    asked = None if names is None else [name for one in names for name in str(one).split(",")]
    modalities = _modalities(mri_types)
    _finished_run(run)
    if limit is not None:
        checks.number(1, whole=True)("limit", limit)
    checks.device("device", device)
    found: dict[str, Any] = _scripts("explain.run").explain_run(
        Path(run), None, asked, modalities, limit, device=device
    )
    return found


def _finished_run(run: str | Path, output: str | Path | None = None) -> None:
    """Check that there is a run's folder, and that what is made of it can be written."""
    checks.folder("folder of a run")("run", run)
    checks.output("output", run if output is None else Path(output).parent)


def card(run: str | Path, output: str | Path | None = None, overwrite: bool = False) -> Path:
    """Write the model card with the figures of a cross-validation or an evaluation in it.

    Args:
        run: folder of the run.
        output: file to write; MODEL_CARD.md in the folder by default.
        overwrite: replace the file.

    Returns:
        The file.
    """
    _finished_run(run, output)
    file: Path = _scripts("report.card").fill(run, output, overwrite)
    return file


def phantom(output: str | Path | None = None, preview: str | Path | None = None, **overrides: Any) -> Path:
    """Write a synthetic cohort in both of the challenge's layouts, to try everything without real data.

    Args:
        output: folder for the cohort.
        preview: PNG to write instead: slices that `radiogenomics pretrain` draws, with the outlines of their tumours.
        overrides: settings of configs/phantom.yaml: --segmentation_patients, --classification_patients, --test_patients,
            --signal, --spacing, --seed, …; for a preview those of configs/pretrain_segmentation.yaml, --seed for example.

    Returns:
        The folder, or the picture.

    Raises:
        ValueError: when not just one of output and preview is given.
    """
    if (output is None) == (preview is None):
        raise ValueError(
            "name either --output FOLDER for a cohort or --preview FILE.png for a picture of synthetic slices"
        )
    if preview is not None:
        _run("pretrain_segmentation", preview=_path(preview), run=["$@drawing"], **overrides)
        return Path(preview)
    _run("phantom", output_dir=_path(output), **overrides)
    return Path(str(output))


def demo(output: str | Path = "demo", signal: float = 1.0, overwrite: bool = False) -> Path:
    """Make a phantom cohort, train both stages on it, evaluate, predict, explain, and write a report: a few minutes on a CPU.

    Args:
        output: folder for everything.
        signal: strength of the label's made-up signal in the phantom, 0 (none) to 1.
        overwrite: replace an earlier demo.

    Returns:
        The folder.
    """
    checks.output("output", output)
    checks.number(0, 1)("signal", signal)
    checks.flag("overwrite", overwrite)
    folder: Path = _scripts("demo").run(Path(output).resolve(), signal, overwrite)
    return folder


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
        output: folder for the report, or an .html file, beside which <name>_files holds the rest; <run>/report by default.
        images: show the patients' slices and masks.
        overwrite: replace an earlier report.

    Returns:
        The first page; open it in a browser.
    """
    _finished_run(run, output)
    page: Path = _scripts("report.pages").write_report(
        str(run), None if output is None else str(output), overwrite, images
    )
    return page


def export(
    what: str,
    format: str,
    weights: str | Path,
    output: str | Path,
    overwrite: bool = False,
) -> Path:
    """Write a trained network as TorchScript, ONNX or OpenVINO, for other programs. Research use only, not for diagnosis.

    The file takes normalised images, any number at once, gives logits, carries the bundle's metadata, and is written only if it
    answers as the network does.

    Args:
        what: segmenter or classifier.
        format: torchscript, onnx or openvino.
        weights: weights file of the network.
        output: file to write: .ts, .onnx or .xml.
        overwrite: replace the file.

    Returns:
        The file.
    """
    checks.one_of(checks.NETWORKS)("what", what)
    checks.one_of(list(checks.SUFFIXES))("format", format)
    checks.file("weights file", checks.GET_WEIGHTS)("weights", weights)
    checks.output_file("output", output)
    file: Path = _scripts("exports").export(what, format, weights, output, overwrite)
    return file


def download() -> Path:
    """Download the weights that the method's authors released (MIT licence) into the bundle.

    Returns:
        The folder of weights.
    """
    _scripts("weights")
    from monai.bundle import download_large_files

    try:
        download_large_files(bundle_path=str(BUNDLE_ROOT))
    except Exception as error:
        raise OSError(
            f"the released weights could not be downloaded ({error}); `pip install 'brats-mri-radiogenomics[download]'` and a "
            f"connection to Google Drive are needed, or put the files into {BUNDLE_ROOT / 'models' / 'released'} by hand"
        ) from error
    return BUNDLE_ROOT / "models"


def doctor(segmenter: str | Path | None = None, classifier: str | Path | None = None) -> dict[str, Any]:
    """Show what a bug report needs: versions, devices, and the weights that are found, each of which is tried.

    Args:
        segmenter: segmentation weights, as for predict; by default those of the bundle.
        classifier: classifier weights or a folder of them, as for predict; by default those of the bundle.

    Returns:
        The same as a dictionary; where weights can't be used, with their ``problems``.
    """
    import torch

    inferers, weights, exports = _scripts("inferers"), _scripts("weights"), _scripts("exports")
    problems: list[str] = []

    def attempt(function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except Exception as error:
            problems.append(str(error))
            return None

    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    models = BUNDLE_ROOT / "models"
    members = attempt(weights.find_members, _path(classifier), models) or [dict.fromkeys(MRI_TYPES)]
    found = {
        "segmentation": attempt(weights.find_segmenter, _segmenter(segmenter), models),
        **weights.by_modality(members),
    }
    networks = {found["segmentation"]: "segmenter", **{file: "classifier" for one in members for file in one.values()}}
    tried = {file: attempt(exports.describe, what, file) for file, what in networks.items() if file}
    if all(tried.values()):
        attempt(weights.member_settings, members)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "packages": {package: installed(package) or "not installed" for package in NEEDED},
        "optional packages": {package: installed(package) or "not installed" for package in OPTIONAL},
        "devices": {name: f"fast bfloat16: {inferers.has_fast_bf16(torch.device(name))}" for name in devices},
        "bundle": str(BUNDLE_ROOT),
        "weights": {name: file or "none" for name, file in found.items()},
        "tried": {file: told or "can't be used, see problems" for file, told in tried.items()},
        "to get weights": weights.GET_WEIGHTS,
        "use": "Research use only. Not for diagnosis.",
        **({"problems": problems} if problems else {}),
    }


COMMANDS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        predict,
        segment,
        datalist,
        prepare,
        train,
        pretrain,
        evaluate,
        crossvalidate,
        explain,
        card,
        report,
        phantom,
        demo,
        export,
        download,
        doctor,
    )
}


def main() -> None:
    """Entry point of the command ``radiogenomics``; mistakes of use end in one line, not in a traceback."""
    import fire

    debug = bool(os.environ.get("RADIOGENOMICS_DEBUG"))
    logging.basicConfig(level=logging.INFO if debug else logging.WARNING, format="%(message)s", stream=sys.stderr)
    for name in (__name__, "radiogenomics", "scripts", "custom_transforms"):
        logging.getLogger(name).setLevel(logging.INFO)
    if not debug:
        _quieten()
    words = sys.argv[1:]
    if {"--help", "-h"} & set(words):  # so that Fire does not tell how it reads them
        words = [*(word for word in words[:1] if word in COMMANDS), "--", "--help"]
    try:
        commands = {name: _reads_paths_as_typed(command) for name, command in COMMANDS.items()}
        result = fire.Fire(commands, command=words, name="radiogenomics", serialize=_shown)
        if isinstance(result, Mapping) and result.get("problems"):
            first, *more = result["problems"]
            sys.exit(f"error: {first}" + (f" (and {len(more)} more)" if more else ""))
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on where it stopped")
    except Exception as error:
        known = _mistake(error)
        if known is None or debug:
            raise
        hint = ""
        if isinstance(known, ImportError) and "pip install" not in str(known):
            hint = ". Optional packages: pip install 'brats-mri-radiogenomics[demo]'"
        sys.exit(f"error: {known}{hint}\n(RADIOGENOMICS_DEBUG=1 shows where)")


def _reads_paths_as_typed(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose paths Fire does not read as numbers (``1e3``), lists (``a,b``) or with a comment (``a#b``)."""
    from fire import decorators, parser

    def value(text: str) -> Any:
        return text if "#" in text and text[0] not in "[{(\"'" else parser.DefaultParseValue(text)

    paths = [name for name, kind in command.__annotations__.items() if "Path" in str(kind) and name != "return"]
    command = decorators.SetParseFn(value)(command)
    return decorators.SetParseFn(str, *paths)(command) if paths else command


def _quieten() -> None:
    """Leave out what other packages have to say: to a user it tells nothing."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # of the processes that read ahead
    for name in ("monai", "ignite", "torch", "nncf", "timm"):
        logging.getLogger(name).setLevel(logging.ERROR)
    chatty = (
        "monai.bundle.workflows",
        "monai.data.nvimgcodec_pydicom_plugin",
        "monai.handlers.StatsHandler",
        "nncf",
        "torch.utils.cpp_extension",
    )
    for name in chatty:
        logging.getLogger(name).addFilter(_is_error)  # they set their level themselves


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _shown(result: Any) -> Any:
    """What Fire prints of a command's result."""
    if int(os.environ.get("RANK") or 0) > 0:
        return None  # of several processes the first one speaks
    if isinstance(result, Mapping):
        import yaml

        return yaml.safe_dump(dict(result), sort_keys=False, allow_unicode=True).rstrip()
    return str(result) if isinstance(result, Path) else result


def _mistake(error: BaseException | None) -> BaseException | None:
    """The error that a person can mend below MONAI's wrappers; None where there is none: an error of the program."""
    while error is not None:
        if isinstance(error, (ValueError, OSError, ImportError)) or type(error).__name__ in (
            "WeightsError",
            "ExportError",
        ):
            return error
        error = error.__cause__
    return None


if __name__ == "__main__":
    main()
