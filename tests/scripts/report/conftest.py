"""Runs to report of: a prediction, cross-validations, trainings."""

from __future__ import annotations

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import yaml

from custom_transforms import SliceGeometry
from scripts.files import RESEARCH_ONLY, write_csv, write_json
from scripts.prepared import write_series

EVIL = '<script>alert(1)<!--&"'  # no identifier has a slash
SHAPE = (40, 48, 12)  # X, Y, Z
AFFINE = np.diag([-2.0, -2.0, 5.0, 1.0])  # as DICOM: columns to the left, rows to the back
KEPT = [3, 4, 5, 6, 7]


def write_config(folder, **values):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "resolved_config.yaml").write_text(yaml.safe_dump(values))


def volume_and_masks():
    """A head with a tumour, ``(X, Y, Z)``, and its masks ``(N, 2, H, W)``."""
    x, y, z = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    head = ((x - 20) / 17) ** 2 + ((y - 24) / 21) ** 2 < 1
    whole = ((x - 12) ** 2 + (y - 20) ** 2 < 36) & (abs(z - 5) < 3)
    enhancing = ((x - 12) ** 2 + (y - 20) ** 2 < 9) & (abs(z - 5) < 2)
    volume = (head * (80 + 4 * z) + whole * 60 + enhancing * 50).astype(np.float32)
    geometry = SliceGeometry.from_affine(AFFINE, SHAPE)
    return volume, np.stack([geometry.to_stack(whole), geometry.to_stack(enhancing)], axis=1), geometry


def patient_row(patient, chances, **more):
    series = {
        mri_type: {"warnings": [], "slices": 12, "kept": 5, "sequences": [value], "probability": value, "seconds": 1.5}
        for mri_type, value in chances.items()
    }
    chance = float(np.mean(list(chances.values()))) if chances else 0.5
    return {"patient": patient, "probability": chance, "used": list(chances), "series": series, **more}


def write_patients(folder, rows, **config):
    write_json(
        {"note": RESEARCH_ONLY, "weights": {}, "runtime": "torch fp32", "patients": rows},
        folder / "patients.json",
    )
    write_config(folder, job="inference", seed=67, **config)


def write_pictures(studies, prepared, patients):
    """Studies of FLAIR and T1wCE, and the series prepared of them."""
    volume, masks, geometry = volume_and_masks()
    index = {}
    for patient in patients:
        for mri_type, name in (("FLAIR", "flair"), ("T1wCE", "t1ce")):
            study = studies / patient
            study.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(volume, AFFINE), study / f"{patient}_{name}.nii.gz")
            image = np.clip(geometry.to_stack(volume), 0, 255).astype(np.uint8)[KEPT]
            info = {"patient": patient, "mri_type": mri_type}
            write_series(prepared / patient / f"{mri_type}.h5", image, np.array(KEPT), masks, info, geometry)
            index[f"{patient}/{mri_type}"] = {"file": f"{patient}/{mri_type}.h5"}
    write_json({"configuration": {}, "series": index}, prepared / "index.json")


@pytest.fixture
def prediction(tmp_path):
    """A prediction of two patients with pictures, one of them with a heat map, and of two without a usable series."""
    folder = tmp_path / "prediction"
    write_pictures(tmp_path / "studies", folder / "prepared", ("00001", "00002"))
    masks = volume_and_masks()[1]
    (folder / "explanations").mkdir()
    heat = np.zeros((len(KEPT), *masks.shape[2:]), np.uint8)
    heat[:, 4:6, 3:5] = 255
    explained = folder / "explanations" / "00001_FLAIR.npz"
    np.savez(explained, maps=heat, slices=KEPT, by_slice=-np.arange(len(KEPT)) / 10)
    changes = {"by_region": {"ET": -0.125}, "randomisation": {"statement": "the maps change."}}
    write_json(changes, explained.with_suffix(".json"))
    warned = patient_row("00002", {"FLAIR": 0.8, "T1wCE": 0.9})
    warned["series"]["FLAIR"]["warnings"] = ["2 slices were missing"]
    failed = patient_row(EVIL, {}, reason="cohort prior 0.5: FLAIR: <b>truncated</b> file")
    failed["series"] = {"FLAIR": {"warnings": [], "reason": "<b>truncated</b> file"}}
    rows = [
        patient_row("00001", {"FLAIR": 0.2, "T1wCE": 0.4}, agreement_interval=[0.1, 0.45]),
        warned,
        failed,
        patient_row("00004", {}, reason="cohort prior 0.5: no study of this patient"),
    ]
    write_patients(folder, rows, dataset_dir=str(tmp_path / "studies"))
    return folder


@pytest.fixture
def many(tmp_path):
    """A prediction of 20 patients without pictures, the last of them failed."""
    rng = np.random.default_rng(0)
    rows = [patient_row(f"{number:05d}", {"FLAIR": float(rng.uniform())}) for number in range(19)]
    write_patients(tmp_path / "many", [*rows, patient_row("00999", {}, reason="cohort prior 0.5")])
    return tmp_path / "many"


@pytest.fixture
def cross_validation(tmp_path):
    """A cross-validation of 60 patients, 3 folds, 2 seeds and 2 modalities."""
    folder, rng = tmp_path / "cross_validation", np.random.default_rng(1)
    rows = [
        {
            "patient": f"{patient:05d}",
            "fold": patient % 3,
            "seed": seed,
            "mri_type": mri_type,
            "probability": rng.uniform(),
            "label": patient // 3 % 2,
        }
        for patient in range(60)
        for seed in (67, 68)
        for mri_type in ("FLAIR", "T2w")
    ]
    write_csv(rows, folder / "predictions.csv")
    scores = {"auc": 0.81, "auc_delong": [0.72, 0.9], "auc_bootstrap": [0.7, 0.88], "pr_auc": 0.7}
    metrics = {
        "note": RESEARCH_ONLY,
        "ensembles": {"mean": scores, EVIL: scores},
        "mri_types": {"FLAIR": scores, "T2w": {**scores, "auc": None}},
        "seeds": [67, 68],
        "controls": {"permutation_p": 0.031, "baselines": {"prior": scores, "volume": scores}},
        "curves": {
            "roc": {"fpr": [0, 0.5, 1], "tpr": [0, 0.8, 1], "low": [0, 0.6, 1], "high": [0, 0.9, 1]},
            "calibration": [{"patients": 3, "probability": 0.2, "observed": 0.3, "low": 0.1, "high": 0.5}],
            "decision": {"threshold": [0.1, 0.5], "model": [0.4, 0.1], "all": [0.4, 0], "none": [0, 0]},
        },
    }
    write_json(metrics, folder / "metrics.json")
    write_config(folder, job="cross_validation")
    return folder


HELD_OUT = {"00001": (0, 1), "00002": (1, 0), "00003": (2, 1), EVIL: (2, 0)}  # fold and label


def chance_of(patient, seed, mri_type):
    """What a model gave a patient."""
    return round(0.1 + 0.2 * list(HELD_OUT).index(patient) + 0.04 * (seed == 68) + 0.1 * (mri_type == "T1wCE"), 3)


@pytest.fixture
def folds(tmp_path):
    """A finished cross-validation of four patients with all that its evaluations wrote; the last has no usable series."""
    folder = tmp_path / "folds"
    write_pictures(tmp_path / "cohort", folder / "prepared" / "classification", list(HELD_OUT)[:3])
    entries = [
        {"patient": who, "label": label, "fold": fold, "FLAIR": f"{who}/{who}_flair.nii.gz"}
        for who, (fold, label) in HELD_OUT.items()
    ]
    listed = {"dataset_dir": str(tmp_path / "cohort"), "training": entries, "validation": [], "test": []}
    write_json(listed, tmp_path / "cohort.json")
    table = []
    for seed in (67, 68):
        for fold in (0, 1, 2):
            place = folder / "classification" / f"seed{seed}" / f"fold{fold}" / "evaluation"
            rows = []
            for who in (who for who in HELD_OUT if HELD_OUT[who][0] == fold):
                chances = {name: None if who == EVIL else chance_of(who, seed, name) for name in ("FLAIR", "T1wCE")}
                there = {} if who == EVIL else chances
                reason = {"reason": "cohort prior 0.5: FLAIR: no slice"} if who == EVIL else {}
                rows.append(patient_row(who, there, label=HELD_OUT[who][1], **reason))
                table += [
                    {"patient": who, "fold": fold, "seed": seed, "mri_type": name, "probability": value, "label": HELD_OUT[who][1]}
                    for name, value in chances.items()
                ]  # fmt: skip
            write_patients(place, rows, datalist=str(tmp_path / "cohort.json"))
            write_csv([{"patient": row["patient"]} for row in rows], place / "predictions.csv")
    write_csv(table, folder / "predictions.csv")
    scores = {"auc": 0.75, "brier": 0.2}
    write_json({"note": RESEARCH_ONLY, "ensembles": {"mean": scores, "rank_mean": scores}}, folder / "metrics.json")
    datalist = str(tmp_path / "cohort.json")
    write_config(folder, job="crossvalidate", seeds=[67, 68], mri_types=["FLAIR", "T1wCE"], datalist=datalist)
    return folder


@pytest.fixture
def training(tmp_path):
    losses, scores = [0.7, 0.6, 0.5, 0.45], [0.5, 0.7, 0.7, 0.6]
    for name in ("FLAIR", "T1wCE"):
        rows = [
            {"epoch": epoch, "lr": 1e-4, "train_loss": loss, "auc": score, "log_loss": loss}
            for epoch, loss, score in zip(range(1, 5), losses, scores, strict=True)
        ]
        write_csv(rows, tmp_path / "runs" / name / "history.csv")
        score = "auc" if name == "FLAIR" else "-log_loss"
        write_config(tmp_path / "runs" / name, job="train_classification", score=score, seed=67)
    return tmp_path / "runs"


@pytest.fixture
def made_up():
    """What the runs are made of."""
    return SimpleNamespace(evil=EVIL, shape=SHAPE, kept=KEPT, held_out=HELD_OUT, chance_of=chance_of)
