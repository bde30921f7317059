"""Readers of files under a fuzzer that sees which branches an input reaches (Atheris, libFuzzer), from sound inputs on.

    python -m tests.campaigns.guided --seconds 60 --output guided.md

Atheris has wheels for Linux and Python 3.11 to 3.13: ``pip install atheris``. An input is right if it is read, with finite values, or refused
by one of our errors; all else, more than 30 s and more than 4 GB are findings, whose inputs are kept beside the table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.campaigns import sound
from tests.campaigns.table import markdown_table

INSTRUMENTED = ("scripts", "custom_transforms", "pydicom", "nibabel")
LABELS = "BraTS21ID,MGMT_value\n00001,1\n00002,0\n"


def _series(file: Path) -> None:
    import numpy as np

    from custom_transforms import SeriesReader

    array, meta = SeriesReader().get_data(str(file))
    assert np.isfinite(array).all(), "voxels that are no numbers"
    assert np.isfinite(np.asarray(meta["affine"])).all(), "an affine that is no number"


def _export(file: Path) -> None:
    from scripts.studies.series import read_studies

    studies, others = read_studies([file])
    assert [file] == [*others, *(path for study in studies for one in study.series for path in one.files)]


def _pictures(file: Path) -> None:
    _series(_moved(file, f"Image-1{file.suffix}").parent)


def _labels(file: Path) -> None:
    from scripts.label_tables import read_labels

    assert set(read_labels(file).values()) <= {0, 1}


def _data_list(file: Path) -> None:
    from scripts.datalists import load_datalist

    load_datalist(file)


def _rules(file: Path) -> None:
    from scripts.studies.rules import read_rules

    read_rules(file)


def _run(file: Path) -> None:
    from scripts.run_folder import CONFIG_FILE, read_config

    read_config(_moved(file, CONFIG_FILE).parent)


def _moved(file: Path, name: str) -> Path:
    """The file in a folder of its own."""
    file.with_suffix("").mkdir()
    return file.rename(file.with_suffix("") / name)


def _weights(file: Path) -> None:
    from scripts.model_files import read_weights

    read_weights(file)


READERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "DICOM": (".dcm", _series),
    "headers of an export": (".dcm", _export),
    "NIfTI": (".nii", _series),
    "JPEG": (".jpg", _pictures),
    "tables of labels": (".csv", _labels),
    "data lists": (".json", _data_list),
    "rules": (".yaml", _rules),
    "configurations of runs": (".yaml", _run),
    "weights": (".pt", _weights),
}


def write_sound(name: str, folder: Path) -> None:
    """Sound inputs, from which the fuzzer begins."""
    import io

    from PIL import Image

    from scripts.environment import BUNDLE_ROOT

    folder.mkdir(parents=True)
    if name in ("DICOM", "headers of an export"):
        sound.dicom(0, "00001")[5].save_as(folder / "slice", enforce_file_format=True)
        sound.enhanced(1, "00001").save_as(folder / "enhanced", enforce_file_format=True)
    elif name == "NIfTI":
        (folder / "volume").write_bytes(sound.nifti(0))
    elif name == "JPEG":
        stream = io.BytesIO()
        Image.linear_gradient("L").resize((24, 20)).save(stream, "JPEG")
        (folder / "picture").write_bytes(stream.getvalue())
    elif name == "tables of labels":
        (folder / "labels").write_text(LABELS)
    elif name == "data lists":
        entries = [{"patient": "00001", "FLAIR": "a.nii.gz", "T1wCE": "b", "label": 1, "fold": 0}]
        (folder / "list").write_text(json.dumps({"training": entries, "test": []}))
    elif name == "weights":
        sound.weights(folder / "made")[1].rename(folder / "weights")
        (folder / "made" / "segmentation.pt").unlink()
        (folder / "made").rmdir()
    else:
        rules = BUNDLE_ROOT / "configs" / "modality_rules.yaml"
        (folder / "rules").write_text(rules.read_text(encoding="utf-8"), encoding="utf-8")


def fuzz(name: str, words: list[str]) -> None:
    """Fuzz a reader with libFuzzer's words; the process ends with it."""
    import logging
    import warnings

    import atheris

    with atheris.instrument_imports(include=list(INSTRUMENTED), enable_loader_override=False):
        import nibabel  # noqa: F401  (before MONAI, which imports them too)
        import pydicom.pixels  # noqa: F401
    import monai.bundle  # noqa: F401  (large packages are not instrumented)
    import timm  # noqa: F401

    with atheris.instrument_imports(include=list(INSTRUMENTED), enable_loader_override=False):
        import custom_transforms
        import scripts.datalists
        import scripts.label_tables
        import scripts.model_files
        import scripts.run_folder
        import scripts.studies.rules
        import scripts.studies.series  # noqa: F401
        from scripts.errors import UserError

    logging.disable()
    warnings.simplefilter("ignore")
    suffix, read = READERS[name]
    home, numbers = Path(tempfile.mkdtemp()), itertools.count()

    def one(content: bytes) -> None:
        file = home / f"{next(numbers)}{suffix}"  # a name of its own: what is known of a file is kept by its name
        file.write_bytes(content)
        try:
            read(file)
        except (UserError, custom_transforms.SeriesError):
            pass
        finally:
            file.unlink(missing_ok=True)
            shutil.rmtree(file.with_suffix(""), ignore_errors=True)

    atheris.Setup([sys.argv[0], *words], one)
    atheris.Fuzz()


def run(name: str, seconds: int, seed: int, kept: Path) -> dict[str, Any]:
    """Fuzz a reader in a process of its own; a row of the table."""
    with tempfile.TemporaryDirectory() as temporary:
        begin = Path(temporary) / "sound"
        write_sound(name, begin)
        artifacts = kept / re.sub(r"\W", "_", name)
        artifacts.mkdir(parents=True, exist_ok=True)
        (Path(temporary) / "tmp").mkdir()
        done = subprocess.run(
            [
                sys.executable, "-m", "tests.campaigns.guided", "--reader", name, f"-max_total_time={seconds}", f"-seed={seed + 1}",
                "-timeout=30", "-rss_limit_mb=4096", "-max_len=200000", f"-artifact_prefix={artifacts}/", "-print_final_stats=1", str(begin),
            ],
            capture_output=True, text=True, check=False, errors="replace", env={**os.environ, "TMPDIR": f"{temporary}/tmp"},
        )  # fmt: skip
    said = done.stdout + done.stderr
    tried = re.findall(r"stat::number_of_executed_units:\s*(\d+)", said)
    reached = re.findall(r"cov: (\d+)", said) or ["0"]
    found = sorted(path.name for path in artifacts.iterdir())
    if done.returncode and not found:
        raise RuntimeError(f"{name}: {said[-2000:]}")
    return {
        "reader": name, "inputs": int(tried[-1]) if tried else None, "branches at the beginning": int(reached[0]),
        "at the end": int(reached[-1]), "found": " ".join([*found, *_reason(said)]) or "nothing",
    }  # fmt: skip


def _reason(said: str) -> Iterator[str]:
    """The last line of a traceback."""
    lines = [line for line in said.splitlines() if re.match(r"[\w.]+(Error|Exception|Interrupt)\b", line)]
    if "Uncaught Python exception" in said and lines:
        yield lines[-1][:200]


def main() -> int:
    """Read the command line, fuzz, and write the table; 1 if something was found."""
    if sys.argv[1:2] == ["--reader"]:
        fuzz(sys.argv[2], sys.argv[3:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readers", nargs="*", default=list(READERS), choices=list(READERS))
    parser.add_argument("--output", type=Path, default=Path("guided.md"), help="Markdown file of the table")
    options = parser.parse_args()
    if find_spec("atheris") is None:
        sys.exit("atheris is not installed: pip install atheris (Linux, Python 3.11 to 3.13)")
    kept = options.output.resolve().with_suffix("")
    rows = []
    for name in options.readers:
        rows.append(run(name, options.seconds, options.seed, kept))
        print(rows[-1], flush=True)
    options.output.write_text(markdown_table(rows), encoding="utf-8")
    return int(any(row["found"] != "nothing" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
