"""``python -m benchmarks``: all benchmarks, or one of them, as Markdown tables."""

from __future__ import annotations

import logging
from pathlib import Path

import fire

from . import loader, memory, predict, report, scaling, segment, startup, study, training

TOPICS = ("startup", "segment", "loader", "training", "memory", "predict", "scaling")


def main(
    *topics: str,
    output: str | None = None,
    repeats: int = 3,
    cache: str | Path = study.CACHE,
    segmenter: str | None = None,
    classifier: str | None = None,
) -> None:
    """Measure, and print a Markdown table a topic.

    Args:
        topics: of startup, segment, loader, training, memory, predict, scaling; all by default.
        output: file that the tables are written to as well.
        repeats: runs whose median is reported.
        cache: folder for studies, weights and outputs.
        segmenter: segmentation weights; quickly trained ones by default.
        classifier: classifier weights; quickly trained ones by default.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    unknown = [topic for topic in topics if topic not in TOPICS]
    if unknown:
        raise ValueError(f"topics {', '.join(unknown)}: expected some of {', '.join(TOPICS)}")
    folder = Path(cache)
    folder.mkdir(parents=True, exist_ok=True)
    measure = {
        "startup": lambda: startup.main(repeats),
        "segment": lambda: segment.main(repeats, folder),
        "loader": lambda: loader.main(repeats, folder),
        "training": lambda: training.main(repeats),
        "memory": lambda: memory.main(folder),
        "predict": lambda: predict.main(repeats, folder, segmenter, classifier),
        "scaling": lambda: scaling.main(repeats, folder),
    }
    sections = ["# Benchmarks\n", report.machine() + "\n"]
    for topic in topics or TOPICS:
        sections.append(measure[topic]())
        print(sections[-1], flush=True)
        if output:  # what is measured so far, in case the rest fails
            Path(output).write_text("\n".join(sections), encoding="utf-8")


if __name__ == "__main__":
    fire.Fire(main)
