"""Collect every wheel that prediction needs in one folder, for machines without a network: the challenge's notebooks, hospitals.

python tools/wheelhouse.py --output dist/wheelhouse                                        # for this Python and platform
python tools/wheelhouse.py --python-version 3.12 --platform manylinux_2_28_x86_64          # for another
python tools/wheelhouse.py --without torch torchvision                                     # for notebooks that have them

On the other machine: pip install --no-index --find-links wheelhouse brats-mri-radiogenomics
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LEGACY = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}  # names before they said the version of glibc


def platforms(name: str) -> list[str]:
    """A platform with all older ones whose wheels run on it, newest first.

    pip takes a wheel only if its platform is named: for ``manylinux_2_28_x86_64`` those down to ``manylinux_2_5_x86_64`` and the
    old names. Other platforms stand only for themselves.
    """
    match = re.fullmatch(r"manylinux_2_(\d+)_(\w+)", name)
    if not match:
        return [name]
    newest, machine = int(match[1]), match[2]
    found = []
    for minor in range(newest, 4, -1):
        found += [f"manylinux_2_{minor}_{machine}", *([f"{LEGACY[minor]}_{machine}"] if minor in LEGACY else [])]
    return [*found, f"linux_{machine}"]


def environment(python_version: str | None, platform: str | None) -> dict[str, str]:
    """Values of the markers of requirements that differ from those of this Python."""
    found = {}
    if python_version:
        found |= {"python_version": python_version, "python_full_version": f"{python_version}.0"}
    if platform and "linux" in platform:
        machine = next(name for name in ("x86_64", "aarch64", platform.rsplit("_", 1)[-1]) if platform.endswith(name))
        found |= {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": machine}
    return found


def needed(
    resolved: Mapping[str, Mapping[str, Any]], root: str, without: Iterable[str], environment: Mapping[str, str]
) -> list[str]:
    """Names of the packages that the root needs, except some and those needed only by them; without the root.

    Args:
        resolved: metadata (``requires_dist``) of each resolved package, by canonical name.
        root: canonical name of the package to install.
        without: names of the packages to leave out.
        environment: from :func:`environment`.
    """
    left_out = {canonicalize_name(name) for name in without}
    seen: set[tuple[str, str]] = set()
    waiting = [(root, "")]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen or name in left_out or name not in resolved:
            continue
        seen.add((name, extra))
        for text in resolved[name].get("requires_dist", []):
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({**environment, "extra": extra}):
                wanted = canonicalize_name(requirement.name)
                waiting += [(wanted, one) for one in ("", *requirement.extras)]
    return sorted({name for name, _ in seen} - {root})


def pip(*arguments: str | Path) -> None:
    """This Python's pip; ends the program where it fails."""
    done = subprocess.run([sys.executable, "-m", "pip", *map(str, arguments)], check=False)
    if done.returncode:
        sys.exit(f"pip {arguments[0]} failed; nothing was written")


def collect(
    output: Path, python_version: str | None = None, platform: str | None = None, without: Sequence[str] = ()
) -> Path:
    """Write the folder of wheels, whole or not at all, in place of an earlier one.

    Args:
        output: the folder.
        python_version: ``3.12`` for example; that of this Python by default.
        platform: tag of the platform, ``manylinux_2_28_x86_64`` for example; this one by default.
        without: packages that the other machine has; those needed only by them are left out too.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    target = [*(["--python-version", python_version] if python_version else [])]
    target += [word for name in (platforms(platform) if platform else []) for word in ("--platform", name)]
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".wheelhouse.") as temporary:
        wheels, report = Path(temporary, "wheels"), Path(temporary, "report.json")
        pip("wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, ROOT)
        (own,) = wheels.glob("*.whl")
        resolve = [
            "--quiet",
            "--dry-run",
            "--ignore-installed",
            "--report",
            report,
            "--target",
            Path(temporary, "none"),
        ]
        pip("install", *resolve, "--only-binary=:all:", *target, own)
        resolved = {
            canonicalize_name(item["metadata"]["name"]): item["metadata"]
            for item in json.loads(report.read_text(encoding="utf-8"))["install"]
        }
        root = canonicalize_name(own.name.split("-")[0])
        names = needed(resolved, root, without, environment(python_version, platform))
        pinned = [f"{name}=={resolved[name]['version']}" for name in names]
        pip("download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", wheels, *target, *pinned)
        shutil.rmtree(output, ignore_errors=True)
        wheels.rename(output)
    return output


def main() -> None:
    """Collect the wheels requested on the command line."""
    parser = argparse.ArgumentParser(description="Collect every wheel that prediction needs.")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "dist" / "wheelhouse", help="folder (default: dist/wheelhouse)"
    )
    parser.add_argument("--python-version", help="of the other machine, 3.12 for example")
    parser.add_argument("--platform", help="of the other machine, manylinux_2_28_x86_64 for example")
    parser.add_argument("--without", nargs="*", default=[], help="packages that the other machine has")
    arguments = parser.parse_args()
    folder = collect(arguments.output, arguments.python_version, arguments.platform, arguments.without)
    files = list(folder.iterdir())
    print(f"{folder}: {len(files)} wheels, {sum(file.stat().st_size for file in files) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
