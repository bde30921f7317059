"""Write the bundles as self-contained zips in model-zoo form, the same bytes for the same files.

python tools/build_bundle.py --output dist

There are two, from one source: the whole, and its first stage alone. The latter has the names that the model zoo and MONAI
Label look for (inference.yaml, train.yaml, model.pt); its differences from the whole are in tools/segmentation_bundle.
"""

from __future__ import annotations

import argparse
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = "brats_mri_radiogenomics"
SEGMENTATION = "brats_mri_slice_segmentation"
BUNDLES = (NAME, SEGMENTATION)
FOLDERS = ("configs", "docs", "scripts")
FILES = ("LICENSE", "large_files.yml", "models/README.md", "models/calibration.npz")
WEIGHTS = ("segmentation.pt", "model_*.pt")
TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold

# The first stage by itself
OWN = ("docs/README.md", "large_files.yml", "models/README.md")  # of tools/segmentation_bundle
SHARED = (
    "LICENSE",
    "docs/data_license.txt",
    "docs/segmentation_weights.md",
    "docs/segmentation.png",
    "docs/segmentation_failure.png",
    "models/calibration.npz",
    "configs/logging.conf",
    "configs/modality_rules.yaml",
)
CONFIGS = {  # name in the bundle: name in the repository
    "distributed": "distributed",
    "evaluate": "evaluate_segmentation",
    "inference": "inference_segmentation",
    "phantom": "phantom",
    "prepare_segmentation": "prepare_segmentation",
    "train": "train_segmentation",
}


def tree(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name in the bundle and file of everything in a folder that is not hidden or compiled."""
    for file in folder.rglob("*"):
        parts = file.relative_to(folder).parts
        hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
        if file.is_file() and not hidden and file.suffix != ".pyc":
            yield "/".join((folder.name, *parts)), file


def contents(root: Path = ROOT) -> Iterator[tuple[str, Path]]:
    """Name in the bundle and file of everything in it, including the user's own weights in ``bundle/models``."""
    bundle = root / "bundle"
    for name in FILES:
        yield name, bundle / name
    for pattern in WEIGHTS:
        for file in (bundle / "models").glob(pattern):
            yield f"models/{file.name}", file
    for folder in (*(bundle / name for name in FOLDERS), root / "custom_transforms"):
        yield from tree(folder)


def segmentation_contents(root: Path = ROOT) -> Iterator[tuple[str, Path | bytes]]:
    """Name in the bundle of the first stage, and file or bytes, of everything in it."""
    bundle, own = root / "bundle", root / "tools" / "segmentation_bundle"
    for name in SHARED:
        yield name, bundle / name
    for name in OWN:
        yield name, own / name
    if (bundle / "models" / "segmentation.pt").is_file():
        yield "models/model.pt", bundle / "models" / "segmentation.pt"  # the name that the model zoo looks for
    for folder in (bundle / "scripts", root / "custom_transforms"):
        yield from tree(folder)
    yield "configs/metadata.json", (json.dumps(segmentation_metadata(root), indent=4) + "\n").encode()
    for name, source in CONFIGS.items():
        text = (bundle / "configs" / f"{source}.yaml").read_text(encoding="utf-8")
        for new, old in CONFIGS.items():  # in the commands of the comments
            text = text.replace(f"/{old}.yaml", f"/{new}.yaml")
        yield f"configs/{name}.yaml", text.encode()


def metadata(root: Path = ROOT) -> dict:
    """The metadata of the whole."""
    return json.loads((root / "bundle" / "configs" / "metadata.json").read_text(encoding="utf-8"))


def segmentation_metadata(root: Path = ROOT) -> dict:
    """The metadata of the first stage: those of the whole, with what the bundle's own file says, and its network's format."""
    whole = metadata(root)
    own = json.loads((root / "tools" / "segmentation_bundle" / "metadata.json").read_text(encoding="utf-8"))
    network = whole.pop("segmentation_data_format")
    return {**whole, **own, "network_data_format": network}


def build_bundle(output: Path, root: Path = ROOT, name: str = NAME) -> Path:
    """Write ``<name>_v<version>.zip`` into a folder, first under a temporary name; returns its path.

    Args:
        output: folder of the zip.
        root: of the repository.
        name: one of ``BUNDLES``.
    """
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"{name}_v{metadata(root)['version']}.zip"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    entries = segmentation_contents(root) if name == SEGMENTATION else contents(root)
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for inside, content in sorted(entries, key=lambda entry: entry[0]):
                entry = zipfile.ZipInfo(f"{name}/{inside}", TIMESTAMP)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o100644 << 16  # a plain file that all may read
                if isinstance(content, bytes):
                    archive.writestr(entry, content)
                    continue
                with archive.open(entry, "w", force_zip64=True) as target, open(content, "rb") as source:
                    while block := source.read(1 << 20):
                        target.write(block)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the bundles as zips.")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder of the zips (default: dist)")
    arguments = parser.parse_args()
    for bundle in BUNDLES:
        print(build_bundle(arguments.output, name=bundle))
