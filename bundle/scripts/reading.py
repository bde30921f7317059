"""The reader of all jobs: one series, within the limit that :mod:`scripts.waiting` sets."""

from __future__ import annotations

from pathlib import Path

from custom_transforms import SeriesReader
from custom_transforms.volume import Volume

from .waiting import within_limit


class PatientReader(SeriesReader):
    """A :class:`~custom_transforms.SeriesReader` with a time limit: ``get_data`` may raise a StalledError as well."""

    def _read(self, paths: list[Path]) -> tuple[Path, Volume]:
        return within_limit(paths[0], super()._read, paths)
