"""The code that NVIDIA FLARE runs at a site of a federation.

Each round the server's weights come in and are scored on the site's held-out patients; MonaiAlgo trains the bundle from them on
the site's own prepared series; weights, scores and the number of training items go back. Research use only, not for diagnosis.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import fire
import nvflare.client as flare
import yaml
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, WeightType
from monai.fl.utils.exchange_object import ExchangeObject

from radiogenomics.scripts.environment import BUNDLE_ROOT

PLACES = ("datalist", "prepared_dir", "output_dir")


def read_site(file: str, name: str) -> dict[str, Any]:
    """A site's own settings, which no server sees: the paths of its data list, its prepared series and its run.

    Args:
        file: YAML file at the site; ``{site}`` in its path stands for the site's name.
        name: of the site.

    Raises:
        ValueError: when there is no such file, or it lacks a path.
    """
    path = Path(file.replace("{site}", name))
    remedy = f"write {', '.join(PLACES)} into it"
    if not path.is_file():
        raise ValueError(f"site {name}: {path} does not exist; {remedy}")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    values = dict(content) if isinstance(content, dict) else {}
    missing = [key for key in PLACES if not values.get(key)]
    if missing:
        raise ValueError(f"site {name}: {path} lacks {', '.join(missing)}; {remedy}")
    return values


def start(stage: str, site_settings: str, local_epochs: int, settings: dict[str, Any]) -> MonaiAlgo:
    """The bundle's training of a stage as this site's part of the job; each job has its own run folder."""
    name = flare.get_site_name()
    values = {
        **settings,
        **read_site(str(site_settings), name),
    }  # a site may set what its machine needs, batch_size say
    output = Path(values.pop("output_dir")) / flare.get_job_id()
    files = [f"configs/train_{stage}.yaml", "configs/federated.yaml"]
    sys.path.insert(0, str(BUNDLE_ROOT))  # where the configurations find `scripts`
    site = MonaiAlgo(
        bundle_root=str(BUNDLE_ROOT),
        local_epochs=local_epochs,
        send_weight_diff=False,
        config_train_filename=files,
        train_kwargs={**values, "output_dir": str(output)},
        config_evaluate_filename=files,
        eval_kwargs={**values, "output_dir": str(output / "server")},
    )
    site.initialize(extra={ExtraItems.CLIENT_NAME: name})
    return site


def take_part(site_settings: str, stage: str = "classification", local_epochs: int = 1, **settings: Any) -> None:
    """Train in every round that the server asks for.

    Args:
        site_settings: file of :func:`read_site`.
        stage: classification or segmentation.
        local_epochs: epochs in a round.
        settings: of configs/train_<stage>.yaml, the same at all sites: --mri_type, --learning_rate, …
    """
    flare.init()
    site = start(stage, site_settings, local_epochs, settings)
    trainer, training = site.trainer, site.train_workflow
    assert trainer is not None
    assert training is not None
    items = len(training.train_dataset)
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        own = trainer.network.state_dict()
        if set(received.params) != set(own):
            differing = sorted(set(received.params) ^ set(own))[:3]
            raise ValueError(f"the server's weights are for a different network, {', '.join(differing)} for example")
        weights = ExchangeObject(weights=received.params, weight_type=WeightType.WEIGHTS)
        scores = site.evaluate(weights).metrics
        site.train(weights)
        flare.send(
            flare.FLModel(
                params=site.get_weights().weights,
                # a site whose held-out patients all have one label has no AUC
                metrics={key: float(value) for key, value in scores.items() if math.isfinite(value)},
                # by which the server weighs its average
                meta={"NUM_STEPS_CURRENT_ROUND": items * local_epochs},
            )
        )
    site.finalize()


if __name__ == "__main__":
    fire.Fire(take_part)
