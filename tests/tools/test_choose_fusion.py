"""Weights of fused masks are chosen on some patients and measured on others."""

import numpy as np
import pytest

from tools import choose_fusion


def patient(name, rng, sharp):
    """A thousand voxels; FLAIR is right for ``sharp`` patients, T2w for all, the others are noise."""
    truth = np.zeros((2, 1000), bool)
    truth[0, :300], truth[1, :100] = True, True
    noise = rng.uniform(0, 1, (2, 2, 3, 1000)).astype(np.float32)
    right = np.repeat(np.where(truth, 0.9, 0.1)[:, None], 3, 1).astype(np.float32)
    wrong = np.repeat(np.where(truth, 0.2, 0.6)[:, None], 3, 1).astype(np.float32)
    found = {"FLAIR": right if sharp else wrong, "T2w": right, "T1w": noise[0], "T1wCE": right}
    return {"patient": name, "truth": truth, "found": found}


def test_the_better_modality_wins_and_the_patient_itself_has_no_vote():
    rng = np.random.default_rng(0)
    alike = [patient(str(number), rng, sharp=False) for number in range(4)]
    found = choose_fusion.choose(alike, "WT")
    assert found["weights"]["T2w"] == 1 == found["weights"]["FLAIR"]  # as much as the grid has
    assert found["Dice, one modality"]["T2w"] == 1
    assert found["Dice, one modality"]["FLAIR"] < 0.5
    odd = [patient("odd", rng, sharp=True), *alike]
    left_out = choose_fusion.choose(odd, "WT")["Dice, chosen without the patient"]
    assert left_out["mean"] == pytest.approx(np.mean([left_out[one["patient"]] for one in odd]))


def test_dice_of_a_mean_over_the_modalities_that_are_there():
    one = patient("1", np.random.default_rng(1), sharp=True)
    assert choose_fusion.dice(one, "WT", {"FLAIR": 1.0}) == 1
    del one["found"]["FLAIR"]
    assert choose_fusion.dice(one, "WT", {"FLAIR": 1.0}) == 0
    assert choose_fusion.dice(one, "WT", {"FLAIR": 1.0, "T2w": 0.02}) == 1
