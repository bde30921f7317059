"""The report of a run as self-contained web pages: no server, no network, no other program.

A folder that holds several runs (a demo's) gets one report of all. Patients have pages in all reports except those of trainings and stage 1.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import yaml

from .. import environment
from ..files import RESEARCH_ONLY, folder_written_whole, written_whole
from ..run_folder import CONFIG_FILE, failures_of, plain_settings
from .figures import draw_probabilities
from .groups import groups_of
from .index import Index, evaluation_index, overlap_index, prediction_index
from .patient import find_sources, show_patient
from .run import Evaluation, Run, is_phantom, read_run
from .scores import show_evaluation, tiles_of
from .settings import run_facts, run_versions, settings_table
from .tables import Table, table_of_records
from .training import importance_table, show_training, training_table
from .writer import PAGE, PARTS, Writer

if TYPE_CHECKING:
    from jinja2 import Environment

logger = logging.getLogger(__name__)

PHANTOM = "Phantom data: synthetic, no biological meaning."
GENERATOR = "radiogenomics report"
EMBEDDED_PATIENTS = 12  # up to so many patients are shown on the first page as well
TEMPLATES = Path(__file__).resolve().parent / "templates"


def write_report(
    run: str | Path, output: str | Path | None = None, overwrite: bool = False, images: bool = True
) -> Path:
    """Write the report of a run: a page, a page for each patient of stage 2, figures and tables; completely or not at all.

    Args:
        run: folder of a training run, an evaluation, a cross-validation or a prediction.
        output: folder for ``report.html``, ``patients/``, ``figures/`` and ``tables/``, or an ``.html`` file, beside which
            ``<name>_files/`` holds the rest; ``<run>/report`` by default.
        overwrite: replace an earlier report; anything else is never replaced.
        images: show the patients' slices.

    Returns:
        The first page.

    Raises:
        RunError: when there is nothing to report.
        FileExistsError: when the place holds a report not to be replaced, or other files.
        ImportError: when Jinja2 or matplotlib is not installed.
    """
    found = read_run(run)
    target = Path(output).expanduser().resolve() if output is not None else found.folder / "report"
    is_page = target.suffix.lower() in (".html", ".htm")
    page = target if is_page else target / PAGE
    folder = target.with_name(f"{target.stem}_files") if is_page else target
    _may_be_written(page, folder, overwrite)
    jinja = jinja_environment()
    with folder_written_whole(folder) as staging:
        base = f"{quote(folder.name)}/" if is_page else ""
        back = f"../../{quote(page.name)}" if is_page else f"../{PAGE}"
        content = _render(found, jinja, Writer(staging), base, back, images)
        if not is_page:
            write_page(staging / PAGE, content)
    if is_page:
        write_page(page, content)
    logger.info("%s: open it in a browser. %s", page, RESEARCH_ONLY)
    return page


def _may_be_written(page: Path, folder: Path, overwrite: bool) -> None:
    if not isinstance(overwrite, bool):
        raise ValueError(f"overwrite is {overwrite!r}, expected True or False")
    there = [path for path in (page, folder) if path.exists()]
    inside = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if not page.exists() and folder.is_dir() and not inside:
        return
    for path in there:
        beginning = path.read_text(encoding="utf-8", errors="replace")[:2000] if path.is_file() else ""
        ours = f'content="{GENERATOR}"' in beginning if path == page else path.is_dir() and set(inside) <= set(PARTS)
        if not ours:
            raise FileExistsError(f"{path} exists and is not a report; name another place (--output)")
    if there and not overwrite:
        raise FileExistsError(
            f"{page.parent if inside else page} holds a report; replace it (--overwrite) or name another place (--output)"
        )


def write_page(file: Path, content: str) -> None:
    """Write a text file, whole or not at all."""
    with written_whole(file) as temporary:
        temporary.write_text(content, encoding="utf-8")


def jinja_environment() -> Environment:
    """The templates of all pages, with their common text.

    Raises:
        ImportError: when Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise ImportError("Reports are written with Jinja2: pip install 'brats-mri-radiogenomics[report]'") from error
    jinja = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "script.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    jinja.globals |= {
        "style": Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_hash": Markup(f"'sha256-{digest}'"),
        "generator": GENERATOR,
        "research_only": RESEARCH_ONLY,
        "version": environment.installed("brats-mri-radiogenomics") or "",  # none in an unzipped bundle
        "written": datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
    }
    return jinja


def _render(run: Run, jinja: Environment, writer: Writer, base: str, back: str, images: bool) -> str:
    """The first page; patients' pages, figures and tables are written in the process.

    ``base`` is the report's folder, seen from the first page; ``back`` the first page, seen from a patient's.
    """
    phantom = PHANTOM if is_phantom(run) else ""
    title = f"{run.title}: {run.folder.name}"
    evaluations = [show_evaluation(part, writer, place) for place, part in enumerate(run.evaluations)]
    training = [show_training(part, writer) for part in run.trainings]
    runs = [writer.table(training_table(run.trainings))] if run.trainings else []
    if importances := importance_table(run.folder):
        runs.append(writer.table(importances))
    patients = _patients(run, jinja, writer, images, {"report_title": title, "phantom": phantom, "back": back})
    note, versions = run_versions(run)
    settings = {name: plain_settings(config) for name, config in run.configs.items()}
    configs = {
        f"{CONFIG_FILE} of {name}" if name else CONFIG_FILE: yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        for name, config in run.configs.items()
    }
    return jinja.get_template("report.html").render(
        base=base,
        title=title,
        subtitle=str(run.folder),
        phantom=phantom,
        tiles=tiles_of(run),
        evaluations=evaluations,
        **patients,
        training=training,
        runs=runs,
        facts=run_facts(run),
        versions_note=note,
        versions=versions,
        settings=writer.table(settings_table(settings)) if settings else None,
        configs=configs,
    )


def _patients(run: Run, jinja: Environment, writer: Writer, images: bool, common: Mapping[str, str]) -> dict[str, Any]:
    """Write the patients' pages; returns the patients' part of the first page.

    Returns:
        ``index``, ``prediction_figures``, ``patients`` (those on the first page) and ``failures``.
    """
    found: dict[str, Any] = {
        "index": None, "prediction_figures": [], "patients": [], "failures": None,
    }  # fmt: skip
    if run.shown is None:
        return found
    folder, content, part = run.shown
    rows = content["patients"]
    names = {row["patient"]: writer.name(str(row["patient"])) for row in rows}
    links = {patient: f"patients/{quote(name)}.html" for patient, name in names.items()}
    if (index := _index(part, rows, links)) is not None:
        files = writer.table(Table("Patients", [], [], index.records))["files"]
        found["index"] = {"columns": index.columns, "rows": index.rows, "files": files}
    if part is None and len(rows) > 1:
        drawn = draw_probabilities([row["probability"] for row in rows], [not row.get("used") for row in rows])
        found["prediction_figures"].append(writer.figure(drawn, "patients_by_probability"))
    sources = find_sources(folder) if images and rows else None
    page = jinja.get_template("patient.html")
    for place, row in enumerate(rows):
        name = names[row["patient"]]
        shown = show_patient(row, name, sources, content.get("weights") or {}, writer)
        text = page.render(title=f"Patient {row['patient']}", subtitle="", base="../", found=shown, **common)
        write_page(writer.folder / "patients" / f"{name}.html", text)
        if len(rows) <= EMBEDDED_PATIENTS:
            found["patients"].append({**shown, "link": links[row["patient"]]})
        elif (place + 1) % 50 == 0:
            logger.info("%d of %d patients", place + 1, len(rows))
    if problems := [item for row in rows for item in failures_of(row)]:
        listed = table_of_records("Patients and series", problems)
        for cells, item in zip(listed.rows, problems, strict=True):
            cells[0] = replace(cells[0], link=links[item["patient"]])
        found["failures"] = writer.table(listed, "failures")
    return found


def _index(part: Evaluation | None, rows: Sequence[Mapping[str, Any]], links: Mapping[str, str]) -> Index | None:
    """Of a prediction, or of an evaluation of stage 2 or 1; None where no patient has a label."""
    if part is None:
        return prediction_index(rows, links)
    if groups := groups_of(part.predictions):
        return evaluation_index(groups, rows, links)
    return overlap_index(part.overlap) if part.overlap else None
