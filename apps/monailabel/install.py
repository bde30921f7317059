"""Install the segmentation bundle in MONAI Label's bundle app.

python apps/monailabel/install.py --app FOLDER [--segmenter FILE]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import yaml
from monai.bundle import ConfigParser

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bundle")]

from scripts import weights  # noqa: E402
from scripts.files import folder_written_whole, written_whole  # noqa: E402
from scripts.networks import build_segmenter  # noqa: E402

NAME = "brats_mri_slice_segmentation"
APP = HERE / "app"
CONFIGS = {  # each is laid over the ones before it, by ids
    "inference.yaml": ("inference_segmentation.yaml",),
    "train.yaml": ("prepare_segmentation.yaml", "train_segmentation.yaml"),
}
MISTAKES = (weights.WeightsError, FileExistsError, FileNotFoundError, ModuleNotFoundError)
COPIED = {
    "metadata.json": HERE / "configs" / "metadata.json",
    "logging.conf": ROOT / "bundle" / "configs" / "logging.conf",
    "multi_gpu_train.yaml": ROOT / "bundle" / "configs" / "distributed.yaml",
}


def make_app(app: Path) -> None:
    """Copy the app ``monaibundle`` from the installed MONAI Label, unless it exists.

    Raises:
        FileExistsError: when the folder has other content.
    """
    if (app / "main.py").is_file():
        return
    if app.exists() and any(app.iterdir()):
        raise FileExistsError(f"{app} is not empty and is not a MONAI Label app; name another folder (--app)")
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "monailabel.main", "apps", "--download", "--name", "monaibundle", "--output", folder]
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
        with folder_written_whole(app) as new:
            shutil.copytree(Path(folder, "monaibundle"), new, dirs_exist_ok=True)


def lay_bundle(app: Path) -> Path:
    """Write configurations and code of the bundle afresh; weights and runs in it stay.

    Args:
        app: folder of the app.

    Returns:
        Folder of the bundle.
    """
    bundle = app / "model" / NAME
    with folder_written_whole(bundle / "configs") as configs:
        for name, below in CONFIGS.items():
            sources = [*(ROOT / "bundle" / "configs" / one for one in below), HERE / "configs" / name]
            laid = yaml.safe_dump(
                ConfigParser.load_config_files(sources), sort_keys=False, allow_unicode=True, width=120
            )
            head = f"# Written by apps/monailabel/install.py: {', '.join(below)}, and over it apps/monailabel/configs/{name}\n"
            (configs / name).write_text(head + laid, encoding="utf-8")
        for name, file in COPIED.items():
            shutil.copyfile(file, configs / name)
    for name, folder in (("scripts", ROOT / "bundle" / "scripts"), ("custom_transforms", ROOT / "custom_transforms")):
        with folder_written_whole(bundle / name) as new:
            shutil.copytree(folder, new, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "LICENSE", bundle / "LICENSE")
    return bundle


def lay_weights(bundle: Path, segmenter: Path | None = None, overwrite: bool = False) -> Path:
    """Put weights where MONAI Label looks for them, or check that suitable ones exist.

    Args:
        bundle: folder of the bundle.
        segmenter: weights file of the project, or as released by the method's authors; None: the existing ones, else the shipped ones.
        overwrite: replace existing weights.

    Returns:
        The file in the bundle.

    Raises:
        WeightsError: when there are none, or they are not for this network.
        FileExistsError: when others exist and ``overwrite`` was not given.
    """
    target = bundle / "models" / "model.pt"
    for folder in (bundle / "models", ROOT / "bundle" / "models"):
        if segmenter is None and not target.is_file() and (there := weights.find_segmenter(None, folder)):
            segmenter = Path(there)
    if segmenter is None and not target.is_file():
        raise weights.WeightsError(
            f"{bundle} has no weights yet: give a file (--segmenter FILE). {weights.GET_WEIGHTS}"
        )
    file = target if segmenter is None else segmenter
    settings = weights.segmenter_settings(file)
    weights.load_weights(build_segmenter(settings), file)
    if segmenter is None or (target.is_file() and weights.sha256(target) == weights.sha256(segmenter)):
        return target
    if target.is_file() and not overwrite:
        raise FileExistsError(
            f"{target}: it has other weights, perhaps trained with MONAI Label; omit --segmenter to continue with them, "
            "or replace them (--overwrite)"
        )
    with written_whole(target) as temporary:
        shutil.copyfile(segmenter, temporary)
    return target


def install(app: Path, segmenter: Path | None = None, overwrite: bool = False) -> Path:
    """App, bundle and weights; returns the bundle's folder.

    Raises:
        ModuleNotFoundError: without MONAI Label in this environment.
        WeightsError, FileExistsError: as :func:`lay_weights` and :func:`make_app`.
    """
    if find_spec("monailabel") is None:
        raise ModuleNotFoundError(
            f"MONAI Label is not installed in {sys.prefix}: use an environment of its own, with {HERE / 'requirements.txt'}"
        )
    make_app(app)
    bundle = lay_bundle(app)
    file = lay_weights(bundle, segmenter, overwrite)
    note = weights.segmenter_settings(file).get("note")
    print(f"weights: {file}{f'. {note}' if note else ''}", flush=True)
    return bundle


def arguments(parser: argparse.ArgumentParser) -> None:
    """The command-line options."""
    parser.add_argument(
        "--segmenter",
        type=Path,
        help="weights file of stage 1; without it, the existing weights, initially the shipped ones",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the existing weights with --segmenter")
    parser.add_argument(
        "--app", type=Path, default=APP, help="folder of the app, with its weights (default: %(default)s)"
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Install the segmentation bundle in MONAI Label's bundle app.")
    arguments(parser)
    options = parser.parse_args()
    try:
        print(install(options.app.resolve(), options.segmenter, options.overwrite))
    except MISTAKES as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
