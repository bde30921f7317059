"""Files of a report: figures, tables, and links to them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..outputs import is_reserved
from .figures import save_figure
from .tables import Table, write_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "report.html"
PARTS = (PAGE, "patients", "figures", "tables")


class Writer:
    """Writes figures and tables into a report's folder and knows the links to them, which begin at this folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.taken: set[str] = set()

    def name(self, wanted: str) -> str:
        """A file name that is safe, not yet taken, and as close as possible to the one asked for."""
        safe = re.sub(r"[^A-Za-z0-9._-]+", "_", wanted).strip("._")[:100] or "unnamed"
        safe = f"file_{safe}" if is_reserved(safe) else safe
        if safe.lower() in self.taken:  # some file systems take A and a for the same
            safe = f"{safe}_{hashlib.sha256(wanted.encode()).hexdigest()[:8]}"
        while safe.lower() in self.taken:
            safe += "_"
        self.taken.add(safe.lower())
        return safe

    def table(self, table: Table, name: str | None = None) -> dict[str, Any]:
        """A table and the links to its files."""
        stem = self.name(name or table.name)
        endings = write_table(table, self.folder / "tables", stem)
        links = [(ending.upper(), f"tables/{quote(stem)}.{ending}") for ending in endings]
        return {"table": table, "files": links}

    def figure(self, figure: Figure, name: str, caption: str = "") -> dict[str, Any]:
        """A figure and the links to its files."""
        from markupsafe import Markup

        stem = self.name(name)
        svg = save_figure(figure, self.folder / "figures", stem)
        links = [(ending.upper(), f"figures/{quote(stem)}.{ending}") for ending in ("png", "svg")]
        return {"svg": Markup(svg), "caption": caption, "files": links}  # matplotlib has escaped its content
