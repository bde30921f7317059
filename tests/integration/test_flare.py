"""The job of apps/flare in NVIDIA FLARE's simulator, beside the same federation without it. FLARE has an environment of its own."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("nvflare", reason="NVIDIA FLARE has an environment of its own: make test-flare")
pytest.importorskip("nilearn", reason="the phantom cohort needs the extra [phantom]")

from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import WeightType
from monai.fl.utils.exchange_object import ExchangeObject

from scripts import cli
from scripts.environment import BUNDLE_ROOT
from scripts.weights import read_weights

APP = Path(__file__).resolve().parents[2] / "apps" / "flare"
CLASSIFIER = {"backbone": "test_nfnet", "image_size": 32, "sequence_length": 6, "stride": 3, "hidden_size": 4}
TRAINING = {
    "num_workers": 0, "warmup_epochs": 1, "learning_rate": 0.002, "amp": False, "score": "-log_loss", "batch_size": 2,
}  # fmt: skip
SITES = ("north", "south")
ROUNDS = 2


def job(*words, check=True):
    done = subprocess.run(
        [sys.executable, str(APP / "job.py"), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def options(settings):
    return [f"--{key}={value}" for key, value in settings.items()]


@pytest.fixture(scope="module")
def initial(federated_sites):
    file = federated_sites / "start.pt"
    job("weights", f"--output={file}", "--init=none", *options(CLASSIFIER))
    return file


@pytest.fixture(scope="module")
def simulated(federated_sites, initial):
    """Output folder of a simulation; each site's settings are its own file's."""
    for name in SITES:
        places = {"datalist": "task2.json", "prepared_dir": "prepared", "output_dir": "flare"}
        places = {key: str(federated_sites / name / place) for key, place in places.items()}
        (federated_sites / f"{name}.yaml").write_text(yaml.safe_dump(places))
    output = federated_sites / "simulation"
    job(
        "simulate", f"--initial={initial}", f"--site_settings={federated_sites}/{{site}}.yaml", f"--output={output}",
        f"--sites={','.join(SITES)}", f"--rounds={ROUNDS}", *options(TRAINING),
    )  # fmt: skip
    return output


def without_flare(sites, initial):
    """The last average of the same rounds, with MonaiAlgo in this process."""
    server, settings = read_weights(initial)
    files = ["configs/train_classification.yaml", "configs/federated.yaml"]
    clients = []
    for name in SITES:
        places = {"datalist": str(sites / name / "task2.json"), "prepared_dir": str(sites / name / "prepared")}
        kwargs = {**settings, **TRAINING, **places, "output_dir": str(sites / name / "without_flare")}
        client = MonaiAlgo(
            str(BUNDLE_ROOT), send_weight_diff=False, config_train_filename=files, train_kwargs=kwargs,
            config_evaluate_filename=None,
        )  # fmt: skip
        client.initialize()
        clients.append(client)
    for _ in range(ROUNDS):
        total, count = dict.fromkeys(server, 0.0), 0
        for client in clients:
            client.train(ExchangeObject(weights=server, weight_type=WeightType.WEIGHTS))
            items = len(client.train_workflow.train_dataset)
            count += items
            for key, value in client.get_weights().weights.items():
                total[key] = total[key] + value * items
        server = {key: value / count for key, value in total.items()}
    return server


def test_the_last_average_is_that_of_the_same_rounds_without_flare(federated_sites, initial, simulated):
    state, settings = read_weights(simulated / "FL_global_model.pt")
    expected = without_flare(federated_sites, initial)
    start, stored = read_weights(initial)
    assert settings == stored == {"mri_type": "FLAIR", **CLASSIFIER}
    assert state.keys() == expected.keys()
    # FLARE sums in another order, and Adam moves a weight by its whole rate whose gradient is 0 but for rounding
    for part in ("backbone", "lstm", "clf_head"):
        keys = [key for key in state if key.startswith(part)]
        way, apart = (
            torch.cat([(state[key] - other[key]).flatten() for key in keys]).norm() for other in (start, expected)
        )
        assert apart < 1e-3 * way


def test_the_last_average_is_a_weights_file(federated_sites, simulated):
    site = federated_sites / "north"
    metrics = cli.evaluate(
        "classification", site / "task2.json", site / "prepared", site / "flare_evaluation",
        classifier=simulated / "FL_global_model.pt", mri_types="FLAIR", num_workers=0,
    )  # fmt: skip
    assert metrics["patients"] == 2


def test_each_site_keeps_its_run(federated_sites, simulated):
    for name in SITES:
        (run,) = (federated_sites / name / "flare").iterdir()
        config = yaml.safe_load((run / "resolved_config.yaml").read_text())
        assert config["datalist"] == str(federated_sites / name / "task2.json")
        assert len((run / "history.csv").read_text().splitlines()) == 1 + ROUNDS


def test_the_server_knows_no_patients_and_no_places(federated_sites, simulated):
    patients = [entry["patient"] for entry in json.loads((federated_sites / "task2.json").read_text())["training"]]
    words = re.compile(rb"task2\.json|/prepared|" + "|".join(rf"\b{patient}\b" for patient in patients).encode())
    (server,) = simulated.rglob("server")
    texts = [file for file in server.rglob("*") if file.is_file() and file.suffix not in (".pt", ".pyc")]
    assert [file for file in texts if "log" in file.name]
    for file in texts:
        assert not words.search(file.read_bytes()), file


def test_a_simulation_is_not_overwritten(federated_sites, initial, simulated):
    before = (simulated / "FL_global_model.pt").read_bytes()
    done = job(
        "simulate",
        f"--initial={initial}",
        "--site_settings=nowhere",
        f"--output={simulated}",
        "--sites=a,b",
        check=False,
    )
    assert done.returncode != 0
    assert f"{simulated} is there already" in done.stderr
    assert (simulated / "FL_global_model.pt").read_bytes() == before


def test_an_exported_job_holds_code_settings_and_first_weights(tmp_path, federated_sites, initial):
    job(
        "export", f"--initial={initial}", "--site_settings=/etc/radiogenomics/{site}.yaml", f"--output={tmp_path / 'jobs'}",
        "--rounds=7", "--clients=3", "--learning_rate=0.0001",
    )  # fmt: skip
    folder = tmp_path / "jobs" / "radiogenomics_classification"
    assert [file.read_bytes() for file in folder.rglob("client.py")] == [(APP / "client.py").read_bytes()]
    (weights,) = folder.rglob("*.pt")
    assert weights.read_bytes() == initial.read_bytes()
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["min_clients"] == 3
    (client,), (server,) = folder.rglob("config_fed_client.json"), folder.rglob("config_fed_server.json")
    logged = client.read_text()
    for words in (
        "/etc/radiogenomics/{site}.yaml",
        "--learning_rate=0.0001",
        "--backbone=test_nfnet",
        "--mri_type=FLAIR",
    ):
        assert words in logged
    (workflow,) = json.loads(server.read_text())["workflows"]
    assert workflow["args"]["num_rounds"] == 7


def test_weights_without_settings_start_no_job(tmp_path, initial):
    torch.save(read_weights(initial)[0], tmp_path / "flat.pt")
    done = job(
        "export", f"--initial={tmp_path / 'flat.pt'}", "--site_settings=x", f"--output={tmp_path / 'jobs'}", check=False
    )
    assert "flat.pt does not record its settings" in done.stderr
    assert not (tmp_path / "jobs").exists()


def test_a_site_without_its_settings_learns_what_to_write(tmp_path):
    spec = importlib.util.spec_from_file_location("flare_client", APP / "client.py")
    client = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)
    with pytest.raises(ValueError, match=r"site north: .*north\.yaml does not exist; write datalist, prepared_dir"):
        client.read_site(str(tmp_path / "{site}.yaml"), "north")
    (tmp_path / "north.yaml").write_text("datalist: a.json\noutput_dir: runs\n")
    with pytest.raises(ValueError, match=r"lacks prepared_dir"):
        client.read_site(str(tmp_path / "{site}.yaml"), "north")
