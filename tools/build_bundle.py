"""Write the bundle as one self-contained zip in model-zoo form, the same bytes for the same files.

python tools/build_bundle.py --output dist
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
FOLDERS = ("configs", "docs", "scripts")
FILES = ("LICENSE", "large_files.yml", "models/README.md", "models/calibration.npz")
WEIGHTS = ("segmentation.pt", "model_*.pt")
TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold


def contents(root: Path = ROOT) -> Iterator[tuple[str, Path]]:
    """Name in the bundle and file of all that belongs into it; one's own weights too, where ``bundle/models`` has some."""
    bundle = root / "bundle"
    for name in FILES:
        yield name, bundle / name
    for pattern in WEIGHTS:
        for file in (bundle / "models").glob(pattern):
            yield f"models/{file.name}", file
    for folder in (*(bundle / name for name in FOLDERS), root / "custom_transforms"):
        for file in folder.rglob("*"):
            parts = file.relative_to(folder).parts
            hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
            if file.is_file() and not hidden and file.suffix != ".pyc":
                yield "/".join((folder.name, *parts)), file


def build_bundle(output: Path, root: Path = ROOT) -> Path:
    """Write ``brats_mri_radiogenomics_v<version>.zip`` into a folder, first under a temporary name; returns its path."""
    version = json.loads((root / "bundle" / "configs" / "metadata.json").read_text(encoding="utf-8"))["version"]
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"{NAME}_v{version}.zip"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, file in sorted(contents(root)):
                entry = zipfile.ZipInfo(f"{NAME}/{name}", TIMESTAMP)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o100644 << 16  # a plain file that all may read
                with archive.open(entry, "w", force_zip64=True) as target, open(file, "rb") as source:
                    while block := source.read(1 << 20):
                        target.write(block)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the bundle as one zip.")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder of the zip (default: dist)")
    print(build_bundle(parser.parse_args().output))
