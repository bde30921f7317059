"""Two sites train one classifier without showing their patients: monai.fl drives the bundle, the server only averages."""

import csv
import itertools
import json
import math
import pickle
from pathlib import Path

import pytest
import torch
import yaml
from ignite.engine import Events
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, FlStatistics, ModelType, WeightType
from monai.fl.utils.exchange_object import ExchangeObject

pytest.importorskip("nilearn", reason="the phantom cohort needs the extra [phantom]")

from scripts import cli
from scripts.environment import BUNDLE_ROOT
from scripts.networks import build_classifier
from scripts.runs import RunExistsError
from scripts.weights import read_weights, save_weights

CLASSIFIER = {"backbone": "test_nfnet", "image_size": 32, "sequence_length": 6, "stride": 3, "hidden_size": 4}
FILES = ["configs/train_classification.yaml", "configs/federated.yaml"]
TRAINING = {
    "mri_type": "FLAIR", **CLASSIFIER, "num_workers": 0, "warmup_epochs": 1, "learning_rate": 0.002, "amp": False,
    "score": "-log_loss",  # of one held-out patient there is no AUC
    "batch_size": 1,  # a step is a sequence
}  # fmt: skip
SITES = ("north", "south")
ROUNDS = 3  # one trains the head alone


@pytest.fixture(scope="module")
def sites(federated_sites):
    return federated_sites


def start_site(folder, name, output="run", **settings):
    """A site as a federation's client sets it up: the bundle's configurations and the site's own places."""
    places = {"datalist": str(folder / name / "task2.json"), "prepared_dir": str(folder / name / "prepared")}
    run = folder / name / output
    site = MonaiAlgo(
        bundle_root=str(BUNDLE_ROOT),
        send_weight_diff=False,
        config_train_filename=FILES,
        train_kwargs={**TRAINING, **places, "output_dir": str(run), **settings},
        config_evaluate_filename=FILES,
        eval_kwargs={**TRAINING, **places, "output_dir": str(run / "server")},
        best_model_filepath=str(run / "model_FLAIR.pt"),
    )
    site.initialize(extra={ExtraItems.CLIENT_NAME: name})
    return site


def copied(state):
    return {key: value.detach().clone() for key, value in state.items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def average(weights, counts):
    """Federated averaging, all that the server does."""
    return {
        key: sum(state[key] * count for state, count in zip(weights, counts, strict=True)) / sum(counts)
        for key in weights[0]
    }


def full(weights):
    return ExchangeObject(weights=weights, weight_type=WeightType.WEIGHTS)


@pytest.fixture(scope="module")
def federation(sites):
    """What the server saw in each round, and what each site's network was when it began to train."""
    torch.manual_seed(0)
    network = build_classifier(CLASSIFIER)
    clients = {name: start_site(sites, name) for name in SITES}
    began = {name: [] for name in SITES}
    for name, client in clients.items():

        def note(engine, seen=began[name]):
            seen.append(copied(engine.network.state_dict()))

        client.trainer.add_event_handler(Events.EPOCH_STARTED, note)
    server, rounds = copied(network.state_dict()), []
    for _ in range(ROUNDS):
        sent, metrics, received = copied(server), {}, {}
        for name, client in clients.items():
            metrics[name] = client.evaluate(full(server))
            client.train(full(server))
            received[name] = client.get_weights()
            received[name].weights = copied(received[name].weights)
        counts = [received[name].statistics[FlStatistics.NUM_EXECUTED_ITERATIONS] for name in SITES]
        server = average([received[name].weights for name in SITES], counts)
        rounds.append({"sent": sent, "metrics": metrics, "received": received, "counts": counts, "average": server})
    file = sites / "server" / "model_FLAIR.pt"
    network.load_state_dict(server)
    save_weights(network, {"mri_type": "FLAIR", **CLASSIFIER}, file)
    return clients, rounds, began, file


def test_every_round_begins_at_the_average_of_the_last(federation):
    _, rounds, began, _ = federation
    for number in range(ROUNDS):
        for name in SITES:
            assert equal(began[name][number], rounds[number]["sent"])
    for last, following in itertools.pairwise(rounds):
        assert equal(last["average"], following["sent"])
        assert not any(equal(last["average"], last["received"][name].weights) for name in SITES)


def test_sites_train_on_what_they_have(federation):
    """In the first round the head alone, as the method's warm-up does; all sequences of a site are in each of its rounds."""
    clients, rounds, _, _ = federation
    for number, seen in enumerate(rounds):
        assert seen["counts"] == [len(client.train_workflow.train_dataset) for client in clients.values()]
        for name in SITES:
            weights = seen["received"][name].weights
            changed = {key.split(".")[0] for key in weights if not torch.equal(weights[key], seen["sent"][key])}
            assert {"lstm", "clf_head"} <= changed
            assert ("backbone" in changed) == (number > 0)
    assert seen["counts"][0] > seen["counts"][1] > 0


def test_differences_are_those_to_the_servers_weights(federation):
    clients, rounds, _, _ = federation
    for name, client in clients.items():
        client.send_weight_diff = True
        difference = client.get_weights()
        client.send_weight_diff = False
        assert difference.weight_type == WeightType.WEIGHT_DIFF
        for key, value in difference.weights.items():
            torch.testing.assert_close(
                rounds[-1]["sent"][key] + value, rounds[-1]["received"][name].weights[key], rtol=1e-5, atol=1e-7
            )


def test_nothing_but_weights_counts_and_scores_leaves_a_site(sites, federation):
    _, rounds, _, _ = federation
    names = set(rounds[0]["sent"])
    patients = [entry["patient"] for entry in json.loads((sites / "task2.json").read_text())["training"]]
    for seen in rounds:
        for name in SITES:
            weights, metrics = seen["received"][name], seen["metrics"][name]
            assert set(weights.weights) == names
            assert all(type(value) is torch.Tensor for value in weights.weights.values())
            assert all(isinstance(value, int) for value in weights.statistics.values())
            assert set(metrics.metrics) == {"auc", "log_loss"}
            assert all(isinstance(value, float) for value in metrics.metrics.values())
            assert (weights.optim, weights.metrics, metrics.weights, metrics.statistics) == (None,) * 4
            # all else in the objects
            weights.weights = None
            sent = pickle.dumps([weights, metrics])
            for word in [*patients, str(sites), name]:
                assert word.encode() not in sent


def test_a_sites_score_of_the_servers_weights_is_that_of_an_evaluation(sites, federation):
    """Of its own held-out patients, by the job that evaluates weights files."""
    clients, rounds, _, file = federation
    for name, client in clients.items():
        found = client.evaluate(full(rounds[-1]["average"])).metrics
        evaluated = cli.evaluate(
            "classification", sites / name / "task2.json", sites / name / "prepared", sites / name / "evaluation",
            classifier=file, mri_types="FLAIR", num_workers=0,
        )  # fmt: skip
        assert evaluated["patients"] == len(client.eval_workflow.val_dataset)
        assert evaluated["FLAIR"]["log_loss"] == pytest.approx(found["log_loss"], rel=1e-4)
        if name == "south":
            assert math.isnan(found["auc"])
        else:
            assert evaluated["FLAIR"]["auc"] == found["auc"]


def test_the_last_average_is_a_weights_file_that_predicts(sites, federation):
    _, rounds, _, file = federation
    state, settings = read_weights(file)
    assert equal(state, rounds[-1]["average"])
    assert settings == {"mri_type": "FLAIR", **CLASSIFIER}
    output = cli.predict(
        sites / "data" / "task2" / "test", sites / "prediction", segmenter=sites / "segmentation.pt", classifier=file,
        mri_types="FLAIR", min_tumor_ratio=-1, num_workers=0, runtime="torch", exact=True,
    )  # fmt: skip
    with open(output / "submission.csv", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert 0 < float(row["MGMT_value"]) < 1
    (patient,) = json.loads((output / "patients.json").read_text())["patients"]
    assert float(row["MGMT_value"]) != 0.5, patient


def test_a_site_keeps_its_run_as_any_training_does(sites, federation):
    clients, _, _, _ = federation
    for name, client in clients.items():
        run = sites / name / "run"
        config = yaml.safe_load((run / "resolved_config.yaml").read_text())
        assert config["job"] == "train_classification"
        assert config["datalist"] == str(sites / name / "task2.json")
        with open(run / "history.csv", newline="") as stream:
            assert [row["epoch"] for row in csv.DictReader(stream)] == ["1", "2", "3"]
        best = client.get_weights(extra={ExtraItems.MODEL_TYPE: ModelType.BEST_MODEL})
        state, settings = read_weights(run / "model_FLAIR.pt")
        assert equal(best.weights, state)
        assert settings["backbone"] == "test_nfnet"


def test_an_earlier_run_of_a_site_is_not_overwritten_unasked(sites, federation):
    run = sites / "south" / "run"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(RuntimeError) as info:
        start_site(sites, "south")
    error: BaseException = info.value
    while error.__cause__ is not None:
        error = error.__cause__
    assert isinstance(error, RunExistsError)
    assert str(run) in str(error)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_site_without_its_patients_writes_nothing(sites):
    with pytest.raises(RuntimeError):
        start_site(sites, "south", "nobody", datalist=str(sites / "nowhere.json"))
    assert not Path(sites / "south" / "nobody").exists()
