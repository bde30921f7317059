"""Prepared series with a planted signal: stacks whose label is a bright block, and masks whose label is a size and a brightness."""

import json

import numpy as np

from custom_transforms import SliceGeometry
from scripts.baselines.members import stack_settings
from scripts.files import write_json
from scripts.preparation import write_index
from scripts.prepared import write_series


def _write(folder, patients, configuration, series):
    """Prepared series, their index, and the data list; ``series`` gives image, slices, masks and geometry of a label."""
    items, training = [], []
    for number in range(patients):
        name, label = f"{number:05d}", number % 2
        file = folder / "prepared" / name / "FLAIR.h5"
        image, slices, masks, geometry = series(label, np.random.default_rng(number))
        info = {
            "patient": name, "mri_type": "FLAIR", "warnings": [], "slices": len(masks), "foreground": len(masks), "kept": len(image),
            "seconds": 0.1, "fingerprint": name,
        }  # fmt: skip
        write_series(file, image, slices, masks, info, geometry)
        items.append({"patient": name, "mri_type": "FLAIR", "output": str(file)})
        training.append({"patient": name, "FLAIR": "none.nii.gz", "label": label, "fold": number // 2 % 2})
    write_index(folder / "prepared", configuration, items, {})
    write_json({"training": training, "validation": [], "test": []}, folder / "task2.json")
    assert len(json.loads((folder / "prepared" / "index.json").read_text())["series"]) == patients
    return folder / "task2.json", folder / "prepared"


def write_stacks(folder, model, patients=12, **sizes):
    """Stacks of noise with a bright block in the middle of the patients with the label 1."""
    settings = stack_settings(model, **sizes)
    size, count = settings["image_size"], settings["slices"] if settings["slices"] > 1 else 3

    def series(label, rng):
        image = rng.integers(0, 60, (count, size, size), dtype=np.uint8)
        middle = slice(size // 4, 3 * size // 4)
        image[:, middle, middle] += np.uint8(label * 180)
        return image, np.arange(count), np.zeros((count, 2, size, size), bool), None

    return _write(folder, patients, {"stage": "baseline", "settings": settings}, series)


def write_masks(folder, patients=16):
    """Series with a tumour that is larger and brighter in patients with the label 1."""

    def series(label, rng):
        shape = (24, 20, 6)
        geometry = SliceGeometry(np.diag([-1.0, -1.0, 4.0, 1.0]), shape, "axial")
        masks = np.zeros((6, 2, 20, 24), bool)
        side = 5 + 3 * label + int(rng.integers(0, 2))
        masks[1:5, 0, 4 : 4 + side, 4 : 4 + side] = True
        masks[2:4, 1, 5:8, 5:8] = True
        image = rng.integers(40, 90, (6, 20, 24), dtype=np.uint8)
        image[masks[:, 0]] += np.uint8(60 + 60 * label)
        kept = np.arange(1, 5)
        return image[kept], kept, masks, geometry

    return _write(folder, patients, {"stage": "classification"}, series)
