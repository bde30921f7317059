"""Federated averaging of a stage of the bundle, as a job of NVIDIA FLARE: write its first weights, export it, simulate it.

python apps/flare/job.py --help. Research use only, not for diagnosis.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fire

from radiogenomics.scripts.environment import BUNDLE_ROOT

CLIENT = Path(__file__).resolve().parent / "client.py"
GLOBAL_MODEL = "FL_global_model.pt"  # FLARE's name of the last average
SCORES = {"classification": "auc", "segmentation": "dice"}


def weights(
    output: str, stage: str = "classification", seed: int = 67, overwrite: bool = False, **settings: Any
) -> Path:
    """Write the start weights of the first round.

    Args:
        output: weights file.
        stage: classification or segmentation.
        seed: of the random part.
        overwrite: replace an existing file.
        settings: of configs/train_<stage>.yaml: --mri_type FLAIR, --init imagenet, none, synthetic (stage 1) or FILE, --backbone, …

    Returns:
        The file.
    """
    from monai.bundle import ConfigParser
    from monai.utils import set_determinism

    from radiogenomics.scripts.weights import initialise, save_weights

    file = _new(output, overwrite)
    sys.path.insert(0, str(BUNDLE_ROOT))
    parser = ConfigParser()
    parser.read_config(str(BUNDLE_ROOT / "configs" / f"train_{stage}.yaml"))
    unknown = [key for key in settings if key not in parser]
    if unknown:
        raise ValueError(f"train_{stage} has no setting {', '.join(unknown)}")
    parser.update(settings)
    set_determinism(seed)
    init, models = parser.get_parsed_content("init"), BUNDLE_ROOT / "models"
    network = initialise(parser.get_parsed_content("network_def"), init, models)
    save_weights(network, parser.get_parsed_content("settings"), file)
    return file


def _new(output: str, overwrite: bool) -> Path:
    path = Path(str(output)).resolve()
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} already exists; name another one, or replace it with --overwrite")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _recipe(
    initial: str,
    site_settings: str,
    rounds: int,
    clients: int,
    local_epochs: int,
    python: str,
    settings: dict[str, Any],
) -> Any:
    """FLARE's federated averaging of the weights in a file, whose settings every site trains with."""
    from nvflare.app_opt.pt.file_model_persistor import PTFileModelPersistor
    from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe

    from radiogenomics.scripts.weights import read_weights

    file = Path(str(initial)).resolve()
    made_with = {key: value for key, value in read_weights(file)[1].items() if not key.startswith("trained")}
    if not made_with:
        raise ValueError(f"{file} does not record its settings; write the first weights with job.py weights")
    stage = "classification" if "backbone" in made_with else "segmentation"
    values = {"site_settings": site_settings, "stage": stage, "local_epochs": local_epochs, **made_with, **settings}
    recipe = FedAvgRecipe(
        name=f"radiogenomics_{stage}",
        model_persistor=PTFileModelPersistor(source_ckpt_file_full_name=file.name, load_device="cpu"),
        min_clients=clients,
        num_rounds=rounds,
        train_script=str(CLIENT),
        train_args=shlex.join(f"--{key}={value}" for key, value in values.items()),
        launch_external_process=True,  # data loaders fork, which FLARE's own threads would not survive
        command=f"{shlex.quote(python)} -u",
        key_metric=SCORES[stage],
    )
    recipe.add_server_file(str(file))
    return recipe


def export(
    initial: str,
    site_settings: str,
    output: str,
    rounds: int = 20,
    clients: int = 2,
    local_epochs: int = 1,
    python: str = "python3",
    overwrite: bool = False,
    **settings: Any,
) -> Path:
    """Write the folder of a job, to be submitted to a federation of sites that have this project and FLARE installed.

    Args:
        initial: start weights of the first round; their settings (network, modality, image size) are those of the job.
        site_settings: path, at each site, of its file with datalist, prepared_dir and output_dir; {site} in it is the site's name.
        output: folder in which the job's folder is written.
        rounds: of training and averaging.
        clients: sites that must have answered before the server averages.
        local_epochs: epochs of each site in a round.
        python: interpreter at the sites that has this project installed.
        overwrite: replace an existing folder.
        settings: further settings of the training, the same at all sites, --learning_rate 0.0001 for example.

    Returns:
        The folder of the job.
    """
    recipe = _recipe(initial, site_settings, rounds, clients, local_epochs, python, settings)
    folder = _new(str(Path(str(output)) / recipe.name), overwrite)
    if folder.exists():
        shutil.rmtree(folder)
    recipe.export(str(folder.parent))
    return folder


def simulate(
    initial: str,
    site_settings: str,
    output: str,
    sites: str | Sequence[str],
    rounds: int = 2,
    local_epochs: int = 1,
    **settings: Any,
) -> Path:
    """Run server and sites on this machine in FLARE's simulator.

    Args:
        initial: start weights of the first round; their settings are those of the job.
        site_settings: path of each site's file with datalist, prepared_dir and output_dir; {site} in it is the site's name.
        output: folder for FLARE's workspace and the last average.
        sites: names, north,south for example.
        rounds: of training and averaging.
        local_epochs: epochs of each site in a round.
        settings: further settings of the training, the same at all sites.

    Returns:
        Weights file with the last average.
    """
    from nvflare.recipe import SimEnv

    from radiogenomics.scripts.files import written_whole

    names = sites.split(",") if isinstance(sites, str) else list(sites)
    folder = _new(output, overwrite=False)
    places = str(Path(str(site_settings)).resolve())  # FLARE's processes have working directories of their own
    recipe = _recipe(initial, places, rounds, len(names), local_epochs, sys.executable, settings)
    run = recipe.execute(SimEnv(clients=names, workspace_root=str(folder)))
    (average,) = Path(run.get_result()).rglob(GLOBAL_MODEL)
    with written_whole(folder / GLOBAL_MODEL) as temporary:
        shutil.copyfile(average, temporary)
    return folder / GLOBAL_MODEL


if __name__ == "__main__":
    fire.Fire({"weights": weights, "export": export, "simulate": simulate})
