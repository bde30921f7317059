"""The model card with the figures of a run in it, including intervals and controls, so that no figure is typed by hand.

The card of the bundle, ``docs/README.md``, is the template that ``templates/card.md`` extends: Jinja's syntax is in Markdown
comments, so that the file itself is a card without figures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..environment import BUNDLE_ROOT
from ..run_folder import read_config
from .pages import TEMPLATES, jinja_environment, write_page
from .run import made_of_phantoms

CARD = "MODEL_CARD.md"


def fill(run: str | Path, output: str | Path | None = None, overwrite: bool = False) -> Path:
    """Write the card of the models of a cross-validation or an evaluation: ``output``, or ``MODEL_CARD.md`` in its folder.

    Raises:
        FileNotFoundError: when the folder holds no metrics.
        FileExistsError: when the file exists and is not to be replaced.
        ValueError: when the metrics are not an evaluation's.
        ImportError: when Jinja2 is not installed.
    """
    folder = Path(run)
    target = Path(output) if output else folder / CARD
    metrics_file = folder / "metrics.json"
    if not metrics_file.is_file():
        raise FileNotFoundError(
            f"{metrics_file}: no such file; name the folder of a cross-validation or of an evaluation that is finished"
        )
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; give another name (--output) or --overwrite")
    metrics = json.loads(metrics_file.read_text(encoding="utf-8"))
    text = rendered(metrics, read_config(folder))
    write_page(target, text)
    return target


def rendered(metrics: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The card of a run in Markdown, from the content of its ``metrics.json`` and its resolved configuration.

    Raises:
        ValueError: when the metrics are not an evaluation's.
        ImportError: when Jinja2 is not installed.
    """
    page = jinja_environment()
    from jinja2 import FileSystemLoader, Undefined

    job = config.get("job")
    overlap = metrics.get("segmentation", metrics if job == "evaluate_segmentation" else None)
    facts = {
        "crossvalidated": metrics.get("classification"),
        "evaluated": metrics if job == "evaluate_classification" else None,
        "segmented": _segmented(overlap) if overlap else None,
    }
    if not any(facts.values()):
        raise ValueError(
            f"the metrics of {job or 'this folder'} hold no evaluation; expected a cross-validation's or evaluation's"
        )
    environment = page.overlay(
        loader=FileSystemLoader([TEMPLATES, BUNDLE_ROOT / "docs"]),
        block_start_string="<!--%",
        block_end_string="-->",
        lstrip_blocks=False,
        undefined=Undefined,
        autoescape=False,  # Markdown
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "number": _number,
        "interval": _interval,
        "difference": _difference,
        "cell": lambda text: str(text).replace("|", "\\|"),
        "code": lambda file: f"`{Path(file).name}`",
    }
    return environment.get_template("card.md").render(
        **facts,
        job=job,
        lists=[config[key] for key in ("datalist", "segmentation_datalist") if config.get(key)],
        phantom=made_of_phantoms(config),
        selection=metrics.get("selection"),
        leakage=metrics.get("leakage"),
    )


def _segmented(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Patients, and the mean scores by group: of all, of each modality, plane and fold."""
    groups = {name: one for name, one in metrics.items() if isinstance(one, Mapping) and name not in ("fold", "failed")}
    groups |= {f"fold {name}": one for name, one in metrics.get("fold", {}).items()}
    columns = list(dict.fromkeys(column for one in groups.values() for column in one))
    rows = {name: [one.get(column) for column in columns] for name, one in groups.items()}
    return {"patients": metrics["patients"], "groups": rows, "columns": columns}


def _difference(test: Mapping[str, Any]) -> str:
    if test.get("difference") is None:
        return "-"
    p = "p < 0.001" if test["p"] is not None and test["p"] < 0.001 else f"p = {_number(test['p'])}"
    return f"{test['difference']:+.3f} ({_number(test['low'])} to {_number(test['high'])}), {p}"


def _interval(figure: Mapping[str, Any] | None, way: str = "bootstrap") -> str:
    if not figure or figure["value"] is None:
        return "-"
    low, high = figure[way] or (None, None)
    return _number(figure["value"]) + ("" if low is None else f" ({_number(low)} to {_number(high)})")


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
