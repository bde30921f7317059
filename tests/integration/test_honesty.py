"""A cross-validation finds the phantom's planted signal, and finds none where there is none.

Small runs of the project's classifier: the backbone's features of every slice are computed once, its LSTM and head are trained
anew in every fold.
"""

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as loss_of

from custom_transforms import ChunkSlices, ConcatMaskChannels, ScaleToUint8
from scripts.evaluation.summary import summarise
from scripts.inferers import SequenceClassifier, normalise
from scripts.networks import BiLSTMNFNet

pytest.importorskip("nilearn", reason="the phantom cohort needs the extra [phantom]")

PATIENTS, FOLDS, LENGTH, STEPS = 32, 4, 6, 25
LABELS = np.arange(PATIENTS) % 2
SPLIT = np.arange(PATIENTS) // 2 % FOLDS  # as many of each label in every fold


def classifier(seed):
    torch.manual_seed(seed)
    return BiLSTMNFNet("resnet10t", sequence_length=LENGTH, hidden_size=8)


@pytest.fixture(scope="module")
def encoded():
    """Features of one sequence of each patient, by strength of the signal; even random weights show it."""
    from scripts.synthetic.phantom import make_patient

    chunks = ChunkSlices(LENGTH, LENGTH)
    backbone = classifier(0).eval()
    show = SequenceClassifier(chunks, image_size=64, zoom=1.0)
    found = {}
    for signal in (0.0, 1.0):
        features = []
        for number, label in enumerate(LABELS):
            patient = make_patient(number, int(label), signal, spacing=4.0)
            image = ScaleToUint8()(patient.volumes["FLAIR"]).transpose(2, 0, 1)
            seg = patient.seg.transpose(2, 0, 1)
            middle = int((seg > 0).sum((1, 2)).argmax())
            inside = slice(max(middle - LENGTH // 2, 0), max(middle - LENGTH // 2, 0) + LENGTH)
            slices = ConcatMaskChannels()(image[inside], seg[inside] > 0, seg[inside] == 4)
            with torch.no_grad():
                features.append(backbone.encode(normalise(show.resize(torch.as_tensor(slices)))))
        stack = torch.stack(features)
        found[signal] = (stack - stack.mean((0, 1))) / (stack.std((0, 1)) + 1e-6)
    return found


def crossvalidated(features, labels, seed, steps=STEPS):
    """Out-of-fold rows of one small run."""
    rows = []
    network = classifier(0)
    target = torch.as_tensor(labels, dtype=torch.float32)[:, None]
    for fold in range(FOLDS):
        torch.manual_seed(seed * FOLDS + fold)
        network.lstm.reset_parameters()
        network.clf_head.reset_parameters()
        trained = [*network.lstm.parameters(), *network.clf_head.parameters()]
        optimizer = torch.optim.AdamW(trained, lr=0.01)
        training = torch.as_tensor(fold != SPLIT)
        for _ in range(steps):
            optimizer.zero_grad()
            loss_of(network.classify(features[training]), target[training]).backward()
            optimizer.step()
        with torch.no_grad():
            chance = torch.sigmoid(network.classify(features[~training]))[:, 0].tolist()
        rows += [
            {
                "patient": f"{patient:05d}", "fold": fold, "seed": seed, "mri_type": "FLAIR", "label": int(labels[patient]),
                "probability": value,
            }
            for patient, value in zip(np.flatnonzero(fold == SPLIT), chance, strict=True)
        ]  # fmt: skip
    return rows


def summary(rows, permutations):
    return summarise(rows, resamples=20, permutations=permutations)


def test_the_planted_signal_is_found(encoded):
    found = summary(crossvalidated(encoded[1.0], LABELS, seed=1), permutations=2000)
    low, high = found["ensembles"]["mean"]["auc"]["delong"]
    assert 0.5 < low < high <= 1
    assert found["controls"]["permutation"]["p"] < 0.01


def test_no_signal_gives_none(encoded):
    """P values of labels that nothing predicts lie anywhere between 0 and 1."""
    rng = np.random.default_rng(67)
    values, areas = [], []
    for seed in range(40):
        labels = LABELS.copy()
        for fold in range(FOLDS):
            labels[fold == SPLIT] = rng.permutation(LABELS[fold == SPLIT])
        found = summary(crossvalidated(encoded[0.0], labels, seed, steps=10), permutations=400)
        values.append(found["controls"]["permutation"]["p"])
        areas.append(found["ensembles"]["mean"]["auc"]["value"])
    # Kolmogorov and Smirnov's distance from a uniform distribution, its 99.9 % point for 40 values
    ordered = np.sort(values)
    steps = np.arange(1, len(ordered) + 1) / len(ordered)
    distance = max((steps - ordered).max(), (ordered - steps + 1 / len(ordered)).max())
    assert distance < 0.304, f"p values {ordered}"
    assert abs(np.mean(areas) - 0.5) < 0.08
    assert sum(value < 0.05 for value in values) <= 7  # 99.5 % of binomial(40, 0.05)
