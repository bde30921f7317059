import json
import logging

import numpy as np
import pytest
import torch
from torch import nn

from custom_transforms import ChunkSlices, SliceGeometry
from scripts import weights
from scripts.explain import run
from scripts.explain.explanation import Classifier, Explanation, explain
from scripts.explain.maps import grad_cam, randomisation_check
from scripts.explain.occlusion import occlusion_by_region, occlusion_by_slice
from scripts.explain.run import explain_run
from scripts.explain.series import encode
from scripts.files import write_json
from scripts.inferers import SequenceClassifier
from scripts.prepared import PreparedError, write_series

SETTINGS = {"backbone": "resnet10t", "image_size": 32, "sequence_length": 4, "stride": 2, "hidden_size": 4}


@pytest.fixture
def save_classifier(make_network):
    """A function that writes the weights of a small classifier."""

    def save(file, seed=0):
        weights.save_weights(make_network(seed=seed), SETTINGS, file)
        return str(file)

    return save


@pytest.fixture
def save_series(colour_slices):
    """A function that writes a prepared series of 9 slices, whose slices from 2 on are kept."""

    def save(folder, patient="1", mri_type="FLAIR", kept=5, seed=0):
        slices = colour_slices(9, 40, 48, seed).numpy()
        indices = np.arange(2, 2 + kept)
        file = folder / patient / f"{mri_type}.h5"
        info = {"patient": patient, "mri_type": mri_type, "kept": kept, "fingerprint": f"{patient}-{seed}"}
        geometry = SliceGeometry.from_affine(np.eye(4), (48, 40, 9))
        write_series(file, slices[indices, 0], indices, slices[:, 1:] > 0, info, geometry)
        return file, info

    return save


@pytest.fixture
def prediction(tmp_path, save_classifier, save_series):
    """Patient 1 is fine, 2's series is damaged, 3's shows too little tumour, 4's is gone, 5 has no study."""
    prepared, index, rows = tmp_path / "prepared", {}, []
    classifier = save_classifier(tmp_path / "model.pt")
    for patient in "1234":
        series = {}
        for mri_type in ("FLAIR", "T2w") if patient == "1" else ("FLAIR",):
            file, info = save_series(prepared, patient, mri_type, kept=0 if patient == "3" else 5)
            index[f"{patient}/{mri_type}"] = {"file": f"{patient}/{mri_type}.h5", **info}
            series[mri_type] = {"probability": 0.5, "kept": 5}
            if patient == "3":
                series[mri_type] = {"probability": None, "reason": "no slice shows enough tumour"}
            if patient == "2":
                file.write_bytes(b"damaged")
        rows.append({"patient": patient, "probability": 0.5, "series": series})
    del index["4/FLAIR"]
    rows.append({"patient": "5", "probability": 0.5, "series": {}})
    write_json({"configuration": {"zoom": 1.3}, "series": index}, prepared / "index.json")
    write_json({"patients": rows}, tmp_path / "patients.json")
    return tmp_path, {"FLAIR": classifier, "T1w": None, "T2w": classifier}


def explain_series(file, classifier, zoom=1.2, batch_size=35):
    return explain(file, Classifier(classifier, "cpu"), zoom, batch_size)


@pytest.mark.slow
def test_explanation_of_a_series(tmp_path, colour_slices, make_network, probability, save_classifier, save_series):
    file, _ = save_series(tmp_path)
    found = explain_series(file, save_classifier(tmp_path / "model.pt"), zoom=1.3, batch_size=3)
    network, slices = make_network(), colour_slices(9, 40, 48)[2:7]
    encoded = encode(network, slices, SequenceClassifier(ChunkSlices(4, 2), 32, 1.3))
    assert (found.patient, found.mri_type, found.slices.tolist()) == ("1", "FLAIR", [2, 3, 4, 5, 6])
    for maps, label in ((found.maps, 1), (found.maps_against, 0)):
        assert maps.dtype == np.uint8
        np.testing.assert_allclose(maps / 255, grad_cam(encoded, label), atol=1 / 255)
    np.testing.assert_allclose(found.by_slice, occlusion_by_slice(encoded), atol=1e-5)
    assert found.by_region == pytest.approx(occlusion_by_region(encoded), abs=1e-5)
    assert found.logits.shape == (2,)
    assert found.probability == pytest.approx(probability(network, slices, 1.3, 32), abs=1e-5)
    assert found.randomisation["correlation"] == pytest.approx(randomisation_check(encoded)["correlation"], abs=1e-3)
    assert found.made_with["weights"] == weights.sha256(tmp_path / "model.pt")
    assert found.made_with["zoom"] == 1.3


@pytest.mark.slow
def test_explanations_are_saved_and_read(tmp_path, save_classifier, save_series):
    file, _ = save_series(tmp_path)
    made = explain_series(file, save_classifier(tmp_path / "model.pt"))
    target = made.save(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1_FLAIR.json", "1_FLAIR.npz"]
    read = Explanation.load(target)
    for name, value in vars(made).items():
        np.testing.assert_equal(getattr(read, name), value)
    assert read.maps.dtype == np.uint8
    assert "Research use only" in json.loads(target.read_text())["note"]
    # arrays of other weights beside it, as an interruption leaves them
    other = explain_series(file, save_classifier(tmp_path / "other.pt", seed=1))
    other.save(tmp_path / "other")
    (tmp_path / "other" / "1_FLAIR.npz").replace(tmp_path / "out" / "1_FLAIR.npz")
    with pytest.raises(ValueError, match=r"belongs to another explanation.*explain again"):
        Explanation.load(target)
    (tmp_path / "out" / "1_FLAIR.npz").write_bytes(b"half of one")
    with pytest.raises(ValueError, match="the explanation can't be read"):
        Explanation.load(target)
    with pytest.raises(ValueError, match="the explanation can't be read"):
        Explanation.load(tmp_path / "none.json")


def test_series_that_can_not_be_explained(tmp_path, make_network, save_classifier, save_series):
    classifier = save_classifier(tmp_path / "model.pt")
    file, _ = save_series(tmp_path, kept=0)
    with pytest.raises(PreparedError, match="no slice shows enough tumour"):
        explain_series(file, classifier)
    with pytest.raises(weights.WeightsError, match="no such weights file"):
        explain_series(file, tmp_path / "none.pt")
    file, _ = save_series(tmp_path)
    broken = make_network()
    nn.init.constant_(broken.clf_head.bias, torch.nan)
    weights.save_weights(broken, SETTINGS, tmp_path / "broken.pt")
    with pytest.raises(weights.WeightsError, match="hold NaN or infinity"):
        explain_series(file, tmp_path / "broken.pt")


@pytest.mark.slow
def test_explanations_of_a_prediction(prediction, caplog):
    folder, classifiers = prediction
    with caplog.at_level(logging.INFO):
        rows = explain_run(folder, classifiers)
    assert list(rows) == ["1/FLAIR", "1/T2w", "2/FLAIR", "3/FLAIR", "4/FLAIR"]
    assert "2/FLAIR.h5: not a readable prepared series" in rows["2/FLAIR"]["error"]
    assert rows["3/FLAIR"] == {"reason": "no slice shows enough tumour"}
    assert "no 4/FLAIR; prepare it again" in rows["4/FLAIR"]["error"]
    for mri_type in ("FLAIR", "T2w"):
        row = rows[f"1/{mri_type}"]
        explanation = Explanation.load(folder / "explanations" / row["file"])
        assert (explanation.patient, explanation.mri_type) == ("1", mri_type)
        assert explanation.probability == row["probability"]
        assert explanation.made_with["zoom"] == 1.3  # of the prediction
        assert row["predicted"] == 0.5
        assert row["maps_change"] is explanation.randomisation["maps_change"]
    names = {path.name for path in (folder / "explanations").iterdir()}
    assert names == {"index.json", *(f"1_{mri_type}.{end}" for mri_type in ("FLAIR", "T2w") for end in ("npz", "json"))}
    stored = json.loads((folder / "explanations" / "index.json").read_text())
    assert stored["series"] == rows
    assert "5 series, 2 failed" in caplog.text
    differs = abs(rows["1/FLAIR"]["probability"] - 0.5) > run.PREDICTION_TOLERANCE
    assert ("but 0.500 in the prediction" in caplog.text) == differs


@pytest.mark.slow
def test_explaining_goes_on_where_it_was_interrupted(prediction, monkeypatch, save_classifier, save_series):
    folder, classifiers = prediction
    done = []
    explain = run.explain

    def counted(file, *rest):
        done.append(f"{file}")
        return explain(file, *rest)

    monkeypatch.setattr(run, "explain", counted)

    def explained(**rest):
        done.clear()
        rows = explain_run(folder, classifiers, **rest)
        return rows, [file.removeprefix(f"{folder / 'prepared'}/") for file in done]

    rows, files = explained(patients=["1"], limit=1)
    assert (list(rows), files) == (["1/FLAIR"], ["1/FLAIR.h5"])
    rows, files = explained(patients=["1"])
    assert (list(rows), files) == (["1/FLAIR", "1/T2w"], ["1/T2w.h5"])
    again, files = explained(patients=["1"])
    assert (again, files) == (rows, [])
    (folder / "explanations" / "1_T2w.npz").unlink()
    assert explained(patients=["1"]) == (rows, ["1/T2w.h5"])
    assert explained(patients=["1"], mri_types=["FLAIR"])[1] == []
    save_classifier(classifiers["FLAIR"], seed=1)  # other weights under the same name
    assert explained(patients=["1"], mri_types=["FLAIR"])[1] == ["1/FLAIR.h5"]
    save_series(folder / "prepared", "1", "FLAIR", seed=1)  # prepared anew
    assert explained(patients=["1"], mri_types=["FLAIR"])[1] == ["1/FLAIR.h5"]


@pytest.mark.slow
def test_other_probabilities_than_predicted_are_reported(prediction, caplog):
    folder, classifiers = prediction
    rows = json.loads((folder / "patients.json").read_text())
    rows["patients"][0]["series"]["FLAIR"]["probability"] = 2.0
    write_json(rows, folder / "patients.json")
    explain_run(folder, classifiers, ["1"], ["FLAIR"])
    assert "but 2.000 in the prediction" in caplog.text


def test_what_explaining_needs(prediction, tmp_path_factory):
    folder, classifiers = prediction
    with pytest.raises(ValueError, match="no patient 8, 9 in this run"):
        explain_run(folder, classifiers, patients=["9", "1", "8"])
    with pytest.raises(ValueError, match="no classifier weights for T1w"):
        explain_run(folder, classifiers, mri_types=["FLAIR", "T1w"])
    with pytest.raises(ValueError, match="no classifier weights for any modality"):
        explain_run(folder, {})
    with pytest.raises(weights.WeightsError, match="no such weights file"):
        explain_run(folder, {"FLAIR": str(folder / "none.pt")})
    assert not (folder / "explanations").exists()
    with pytest.raises(FileNotFoundError, match="name the folder of a finished prediction"):
        explain_run(tmp_path_factory.mktemp("empty"), classifiers)
    index = json.loads((folder / "prepared" / "index.json").read_text())
    write_json({**index, "configuration": {}}, folder / "prepared" / "index.json")
    with pytest.raises(PreparedError, match="no zoom in its configuration"):
        explain_run(folder, classifiers)


@pytest.mark.slow
def test_prepared_series_may_lie_elsewhere(prediction, tmp_path_factory):
    folder, classifiers = prediction
    place = tmp_path_factory.mktemp("elsewhere") / "series"
    (folder / "prepared").rename(place)
    (folder / "resolved_config.yaml").write_text(f"job: inference\nprepared_dir: {place}\n")
    rows = explain_run(folder, classifiers, ["1"], ["FLAIR"])
    assert (folder / "explanations" / rows["1/FLAIR"]["file"]).is_file()
    (folder / "resolved_config.yaml").write_text("prepared_dir: $str(@output_dir) + '/prepared'\n")
    with pytest.raises(PreparedError, match="no such index"):
        explain_run(folder, classifiers, ["1"], ["FLAIR"])


@pytest.mark.slow
def test_an_evaluation_is_explained_with_its_own_zoom(prediction):
    folder, classifiers = prediction
    content = json.loads((folder / "patients.json").read_text())
    write_json({**content, "weights": classifiers}, folder / "patients.json")
    (folder / "resolved_config.yaml").write_text("job: evaluate_classification\nzoom: 1.0\n")
    rows = explain_run(folder, patients=["1"], mri_types=["T2w"])
    assert list(rows) == ["1/T2w"]
    explanation = Explanation.load(folder / "explanations" / "1_T2w.json")
    assert explanation.made_with["zoom"] == 1.0  # not that of the preparation
    assert explanation.made_with["weights"] == weights.sha256(classifiers["T2w"])


@pytest.fixture
def folds(tmp_path, save_classifier, save_series):
    """A cross-validation: patient k was held out in fold k of both seeds."""
    index = {}
    for patient in "12":
        file, info = save_series(tmp_path / "prepared" / "classification", patient)
        index[f"{patient}/FLAIR"] = {"file": f"{patient}/FLAIR.h5", **info}
        for seed in (7, 8):
            place = tmp_path / "classification" / f"seed{seed}" / f"fold{patient}"
            (place / "FLAIR").mkdir(parents=True)
            model = save_classifier(place / "FLAIR" / "model_FLAIR.pt", seed=10 * seed + int(patient))
            chance = explain_series(file, model, zoom=1.3).probability if seed == 7 else 0.99
            facts = {"probability": chance, "kept": 5, "sequences": [chance]}
            row = {"patient": patient, "probability": chance, "used": ["FLAIR"], "series": {"FLAIR": facts}}
            write_json({"weights": {"FLAIR": model}, "patients": [row]}, place / "evaluation" / "patients.json")
            (place / "evaluation" / "predictions.csv").write_text(f"patient\n{patient}\n")
    write_json(
        {"configuration": {"zoom": 1.3}, "series": index}, tmp_path / "prepared" / "classification" / "index.json"
    )
    return tmp_path


@pytest.mark.slow
def test_a_cross_validation_is_explained_with_models_that_did_not_see_the_patient(folds, caplog):
    rows = explain_run(folds)
    assert list(rows) == ["1/FLAIR", "2/FLAIR"]
    for patient in "12":
        explanation = Explanation.load(folds / "explanations" / f"{patient}_FLAIR.json")
        model = folds / "classification" / "seed7" / f"fold{patient}" / "FLAIR" / "model_FLAIR.pt"
        assert explanation.made_with["weights"] == weights.sha256(model)
        assert rows[f"{patient}/FLAIR"]["predicted"] == pytest.approx(explanation.probability, abs=1e-6)
    assert "in the prediction" not in caplog.text  # compared with that model, not with the mean over seeds
    assert list(explain_run(folds, patients=["2"])) == ["2/FLAIR"]
    assert list(explain_run(folds, limit=1)) == ["1/FLAIR"]
