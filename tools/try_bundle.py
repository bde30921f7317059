"""Test the zips of both bundles with only the packages in their metadata installed. Needs a package index and some GB.

python tools/try_bundle.py                                 # lowest MONAI that pyproject.toml allows, then that of the metadata
python tools/try_bundle.py --monai 1.6.1 --environments E  # this one; the environments are kept in E and reused

For each version of MONAI: a new environment, the zips unpacked into an empty folder, a random classifier, then MONAI's bundle
functions: load, verify_net_in_out, run, ckpt_export, onnx_export. Any failure ends it with the command that failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

from build_bundle import BUNDLES, ROOT, SEGMENTATION, build_bundle, metadata


def requirements(monai: str) -> list[str]:
    """The requirements for pip: the packages of the metadata, with another version of MONAI."""
    meta = metadata()
    versions = {"monai": monai, "torch": meta["pytorch_version"], "numpy": meta["numpy_version"]}
    versions |= meta["required_packages_version"]
    return [f"{name}=={version}" for name, version in versions.items()]


def environment(folder: Path, monai: str) -> Path:
    """The Python of an environment for a version of MONAI, created if missing."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.is_file():
        venv.create(folder, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements(monai)], check=True)
    return python


def try_bundles(python: Path, folder: Path) -> None:
    """Unpack both zips into an empty folder and run the checks below in it, with that Python."""
    for name in BUNDLES:
        with zipfile.ZipFile(build_bundle(folder / "zips", name=name)) as archive:
            archive.extractall(folder / "bundles")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    clean |= {"XDG_CACHE_HOME": str(folder / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    for name in BUNDLES:
        print(f"  {name}", flush=True)
        program = [python, Path(__file__).resolve(), "--inside", name]
        subprocess.run(program, cwd=folder / "bundles" / name, env=clean, check=True)


# Inside the environment


def bundle(command: str, *arguments: str) -> None:
    """``python -m monai.bundle``, as a user types it."""
    words = [sys.executable, "-m", "monai.bundle", *command.split(), *arguments]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    print(f"    {command}: passed", flush=True)


def series(file: Path) -> None:
    """A NIfTI volume of a bright ball in a grey one, as input."""
    import nibabel
    import numpy as np

    grid = np.mgrid[-1:1:48j, -1:1:48j, -1:1:12j]
    radius = np.sqrt((grid**2).sum(0))
    volume = 80.0 * (radius < 0.9) + 100.0 * (radius < 0.4)
    file.parent.mkdir(parents=True)
    nibabel.save(nibabel.Nifti1Image(volume.astype(np.float32), np.diag([3.0, 3.0, 5.0, 1.0])), file)


def inside(name: str) -> None:
    """All checks of one bundle, from its root, like the commands of its card."""
    import onnx
    import torch
    from monai.bundle import ConfigParser, load

    sys.path.insert(0, str(Path.cwd()))
    from scripts import weights

    torch.manual_seed(0)
    both = [
        "--net_id",
        "network_def",
        "--meta_file",
        "configs/metadata.json",
        "--config_file",
        "configs/inference.yaml",
    ]
    bundle("verify_net_in_out", *both)

    def network_of(key: str = "network_def") -> torch.nn.Module:  # where there are no weights: the method's own
        parser = ConfigParser()
        parser.read_config("configs/inference.yaml")
        return parser.get_parsed_content(key)

    network, file = network_of(), "models/model.pt"
    if name == SEGMENTATION:
        weights.load_weights(network, file)  # the shipped ones
        key, shape = "model", [1, 3, 64, 64]
    else:
        torch.save(network.state_dict(), file)  # flat, as what large_files.yml names
        shipped = Path("models", "segmentation.pt")
        segmenter = weights.load_weights(network_of("preparation::network_def"), shipped)
        segmenter.segmentation_head[0].bias.data.fill_(10.0)  # tumour everywhere, or no slice would be classified
        weights.save_weights(segmenter, weights.segmenter_settings(shipped), shipped)
        key, shape = None, [1, 35, 3, 64, 64]

    options = {"bundle_dir": "..", "key_in_ckpt": key, "device": "cpu"}
    loaded = load(name, model=network_of(), **options)
    state = load(name, **options)  # it finds no configuration in JSON, and says so
    for tensors in (loaded.state_dict(), state[key] if key else state):
        assert all(torch.equal(value, tensors[one]) for one, value in network.state_dict().items())
    print("    load: passed", flush=True)

    predict(name)
    weighed = ["--ckpt_file", file]
    bundle("ckpt_export", *both, *weighed, "--filepath", "models/model.ts")
    with torch.inference_mode():
        images = torch.rand(shape)
        torch.testing.assert_close(torch.jit.load("models/model.ts").eval()(images), network.eval()(images))
    traced = ["--use_trace", "True", "--input_shape", str(shape), "--converter_kwargs", "{'dynamo': False}"]
    bundle("onnx_export", *both, *weighed, *traced, "--filepath", "models/model.onnx")
    onnx.checker.check_model("models/model.onnx")


def predict(name: str) -> None:
    """Stage 1 of a volume, or both stages of a study."""
    job = ["--config_file", "configs/inference.yaml"]
    if name == SEGMENTATION:
        series(Path("volume", "t1ce.nii.gz"))
        bundle("run inference", *job, "--image", "volume/t1ce.nii.gz", "--output_dir", "masks")
        assert Path("masks", "t1ce_seg.nii.gz").is_file()
    else:
        series(Path("studies", "BraTS2021_00001", "BraTS2021_00001_flair.nii.gz"))
        folders = ["--dataset_dir", "studies", "--output_dir", "prediction"]
        bundle("run inference", *job, *folders, "--max_contours", "1000000")
        found = json.loads(Path("prediction", "patients.json").read_text(encoding="utf-8"))
        assert found["patients"][0]["used"] == ["FLAIR"], found


def versions() -> list[str]:
    """Of MONAI: the lowest allowed one, and the one in the metadata."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (lowest,) = re.findall(r'"monai>=([\d.]+)"', text)
    return list(dict.fromkeys([lowest, metadata()["monai_version"]]))


def main() -> None:
    """Run the requested checks."""
    parser = argparse.ArgumentParser(description="Try the zips of both bundles in fresh environments.")
    parser.add_argument("--monai", nargs="+", default=versions(), help=f"versions (default: {' '.join(versions())})")
    parser.add_argument(
        "--environments", type=Path, help="folder that keeps the environments; by default they are removed"
    )
    parser.add_argument("--inside", choices=BUNDLES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        inside(arguments.inside)
        return
    with tempfile.TemporaryDirectory() as temporary:
        for version in arguments.monai:
            print(f"MONAI {version}", flush=True)
            python = environment((arguments.environments or Path(temporary)).resolve() / f"monai-{version}", version)
            try_bundles(python, Path(temporary, version))


if __name__ == "__main__":
    main()
