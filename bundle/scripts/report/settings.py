"""Provenance of a run: inputs, time and machine, versions, settings."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import environment
from ..run_folder import CONFIG_FILE, plain_settings, read_object
from .run import LOOKED_FOR, Run
from .tables import Cell, Table, shown


def run_facts(run: Run) -> list[tuple[str, str]]:
    """Inputs, time and runtime of a run, for people to read."""
    configs = list(run.configs.values())
    settings = [plain_settings(config) for config in configs]

    def all_of(key: str) -> str:
        return ", ".join(dict.fromkeys(shown(values[key]) for values in settings if values.get(key) is not None))

    facts = {"job": all_of("job"), "folder": str(run.folder), "studies": all_of("dataset_dir")}
    files = dict.fromkeys(values["datalist"] for values in settings if isinstance(values.get("datalist"), str))
    checksums = {name: one for config in configs for name, one in (config.get("datalists_sha256") or {}).items()}
    facts["data list"] = "\n".join(_fingerprint(file, checksums.get(file)) for file in files)
    content = run.shown[1] if run.shown else {}
    facts["weights"] = "\n".join(f"{name}: {shown(file)}" for name, file in (content.get("weights") or {}).items())
    facts["seeds"] = all_of("seeds") or all_of("seed")
    devices = [str(config["device"]) for config in configs if "device" in config]
    facts["device"] = ", ".join(dict.fromkeys("found by itself" if "$" in name else name for name in devices))
    facts["runtime"] = str(content.get("runtime") or all_of("runtime"))
    series = [facts for row in content.get("patients", []) for facts in (row.get("series") or {}).values()]
    seconds = sum(float(facts.get("seconds") or 0) for facts in series)
    facts["computing time"] = f"{datetime.timedelta(seconds=round(seconds))} in {len(series)} series" if seconds else ""
    folders = dict.fromkeys([run.folder, *(part.folder for part in run.parts)])
    outputs = [folder / name for folder in folders for name in (CONFIG_FILE, *LOOKED_FOR)]
    times = [path.stat().st_mtime for path in outputs if path.is_file()]
    if times:
        ends = [datetime.datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M") for at in (min(times), max(times))]
        facts["files written"] = " to ".join(dict.fromkeys(ends))
    return [(name, value) for name, value in facts.items() if value]


def _fingerprint(datalist: str, sha256: str | None) -> str:
    file = Path(datalist)
    if not file.is_file():
        return f"{file} (no longer there)"
    content = read_object(file)
    sections = [name for name in ("training", "validation", "test") if content.get(name)]
    listed = "".join(f", {len(content[name])} in {name}" for name in sections)
    now = hashlib.sha256(file.read_bytes()).hexdigest()
    changed = " when it ran; the file has changed since" if sha256 not in (None, now) else ""
    return f"{file}{listed}\nsha256 {sha256 or now}{changed}"


def run_versions(run: Run) -> tuple[str, list[tuple[str, str]]]:
    """Versions recorded by the run, else those installed where the report is made, and which of the two they are."""
    if written := run.config.get("versions"):
        return "As recorded by the run.", [(str(name), shown(value)) for name, value in written.items()]
    note = "Of the environment in which this report was made; the run itself recorded none."
    return note, list(environment.versions().items())


def settings_table(settings: Mapping[str, Mapping[str, Any]]) -> Table:
    """Settings of one or several configurations, a column each."""
    keys = dict.fromkeys(key for values in settings.values() for key in values if key not in ("job", "imports"))
    records = [
        {"setting": key, **{name or "value": values.get(key) for name, values in settings.items()}} for key in keys
    ]

    def one(value: Any) -> Cell:
        return Cell(repr(value) if isinstance(value, float) else shown(value), None if value is None else str(value))

    rows = [list(map(one, record.values())) for record in records]
    note = "Resolved values; the expressions are in the configuration below."
    return Table("Settings", list(records[0]) if records else [], rows, records, note)
