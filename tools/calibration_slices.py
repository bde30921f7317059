"""Draw the phantom slices whose activations set the ranges of 8-bit arithmetic (bundle/models/calibration.npz).

python tools/calibration_slices.py

They come from phantoms, not from patients, so they may be distributed, and they are always the same, so 8-bit networks
depend only on their weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bundle"), str(ROOT)]

from custom_transforms import ScaleToUint8  # noqa: E402
from scripts.runtimes import CALIBRATION  # noqa: E402
from scripts.synthetic.phantom import make_patient, make_series  # noqa: E402
from scripts.views import ZoomedCentre  # noqa: E402

PATIENTS = 2
SIDE = 192  # pixels, of the field that the networks see
PLACES = {"axial": (0.25, 0.5, 0.75), "coronal": (0.5,), "sagittal": (0.5,)}  # along the tumour


def main() -> None:
    """Write the file."""
    images, masks = [], []
    crop = ZoomedCentre(SIDE, 1.2)
    for number in range(PATIENTS):
        patient = make_patient(number, label=number % 2, seed=2021, spacing=1.0)
        for volume in patient.volumes.values():
            for plane, places in PLACES.items():
                series = make_series(volume, patient.seg, patient.affine, plane)
                shown = np.flatnonzero(series.mask.any(axis=(0, 1)))
                scaled = np.asarray(ScaleToUint8()(series.image.astype(np.float32)))
                for place in places:
                    index = shown[int(place * (len(shown) - 1))]
                    mask = series.mask[:, :, index].T
                    stack = np.stack([scaled[:, :, index].T, 255 * (mask > 0), 255 * (mask == 2)])
                    seen = crop.show(torch.from_numpy(stack).float())
                    images.append(seen[0].round().byte().numpy())
                    masks.append(np.packbits(seen[1:].numpy().reshape(2, -1) > 127, axis=-1))
    np.savez_compressed(CALIBRATION, image=np.stack(images), masks=np.stack(masks))
    print(f"{CALIBRATION}: {len(images)} slices, {CALIBRATION.stat().st_size} bytes")


if __name__ == "__main__":
    main()
