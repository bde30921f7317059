"""Start MONAI Label with the segmentation bundle.

python apps/monailabel/start.py --studies FOLDER [--segmenter FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from install import MISTAKES, NAME, arguments, install

from scripts.files import RESEARCH_ONLY

EXTENSIONS = ("*.nii.gz", "*.nii")


def studies_of(given: str) -> str:
    """The folder of images, or the address of a DICOMweb server.

    Raises:
        FileNotFoundError: when it is a folder without images; MONAI Label would make an empty one.
    """
    if given.startswith(("http://", "https://")):
        return given
    folder = Path(given).resolve()
    if not any(file for pattern in EXTENSIONS for file in folder.glob(pattern)):
        raise FileNotFoundError(
            f"{folder}: no NIfTI file ({', '.join(EXTENSIONS)}) in this folder; MONAI Label does not look into folders below "
            "it. Put the volumes into one folder, one file per series"
        )
    return str(folder)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Start MONAI Label with the segmentation bundle.")
    parser.add_argument("--studies", required=True, help="folder of NIfTI files, or address of a DICOMweb server")
    arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    app = options.app.resolve()
    try:
        studies = studies_of(options.studies)
        install(app, options.segmenter, options.overwrite)
    except MISTAKES as error:
        raise SystemExit(f"error: {error}") from error

    here = f"http://{options.host}:{options.port}"
    for name, preset in (
        ("MONAI_LABEL_DATASTORE_FILE_EXT", EXTENSIONS),
        ("MONAI_LABEL_DICOMWEB_SEARCH_FILTER", {"Modality": "MR"}),
    ):
        os.environ.setdefault(name, json.dumps(preset))
    # where MONAI Label looks for torchrun, and for itkimage2segimage before it would fetch it
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    who = (
        "this machine alone" if options.host in ("127.0.0.1", "localhost") else "WITHOUT A PASSWORD TO ALL WHO REACH IT"
    )
    print(f"MONAI Label serves {studies} at {here}, open to {who}. {RESEARCH_ONLY}", flush=True)
    command = [sys.executable, "-m", "monailabel.main", "start_server"]
    command += ["--app", str(app), "--studies", studies, "--host", options.host, "--port", str(options.port)]
    for key, value in (("models", NAME), ("zoo_source", "ngc"), ("sam2", "false")):  # nothing is fetched
        command += ["--conf", key, value]
    if os.name == "posix":
        os.execv(sys.executable, command)
    raise SystemExit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
