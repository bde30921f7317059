"""The model card with the figures of a run in it, intervals and controls included, so that none is typed by hand.

The card of the bundle, ``docs/README.md``, is the template that ``templates/card.md`` extends: what Jinja reads stands in comments of
Markdown, so that it is a card without any figures as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..environment import BUNDLE_ROOT
from ..files import written_whole

TEMPLATES = [Path(__file__).parent / "templates", BUNDLE_ROOT / "docs"]


def fill(run: str | Path, output: str | Path | None = None, overwrite: bool = False) -> Path:
    """Write the card of the models of a run.

    Args:
        run: folder of a cross-validation or of an evaluation, with its ``metrics.json``.
        output: file to write; ``MODEL_CARD.md`` in the folder by default.
        overwrite: replace the file.

    Returns:
        The file.

    Raises:
        FileNotFoundError: when the folder holds no metrics.
        FileExistsError: when the file is there.
        ValueError: when the metrics are of no evaluation.
        ImportError: when Jinja2 is not installed.
    """
    folder = Path(run)
    target = Path(output) if output else folder / "MODEL_CARD.md"
    metrics_file = folder / "metrics.json"
    if not metrics_file.is_file():
        raise FileNotFoundError(
            f"{metrics_file}: no such file; name the folder of a cross-validation or of an evaluation that is finished"
        )
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; give another name (--output) or --overwrite")
    metrics = json.loads(metrics_file.read_text(encoding="utf-8"))
    config_file = folder / "resolved_config.yaml"
    config = yaml.safe_load(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
    text = rendered(metrics, config)
    with written_whole(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return target


def rendered(metrics: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The card of a run, in Markdown.

    Args:
        metrics: content of its ``metrics.json``.
        config: its resolved configuration.

    Raises:
        ValueError: when the metrics are of no evaluation.
        ImportError: when Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader
    except ImportError as error:
        raise ImportError("The card is written with Jinja2: pip install 'brats-mri-radiogenomics[report]'") from error
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
    lists = [config[key] for key in ("datalist", "segmentation_datalist") if config.get(key)]
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        block_start_string="<!--%",
        block_end_string="-->",
        trim_blocks=True,
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
        lists=lists,
        phantom=any(map(_is_phantom, lists)),
        selection=metrics.get("selection"),
        leakage=metrics.get("leakage"),
    )


def _is_phantom(datalist: str) -> bool:
    """Whether a data list is of a phantom cohort, which says so in a file beside its tasks."""
    file = Path(datalist)
    if not file.is_file():
        return False
    root = Path(json.loads(file.read_text(encoding="utf-8")).get("dataset_dir", file.parent))
    readme = root.parent / "README.txt"
    return readme.is_file() and "phantom" in readme.read_text(encoding="utf-8", errors="replace").lower()


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
