"""One of the two ways in a process of its own, with its parts timed: ``python -m benchmarks.child WAY REPORT OPTIONS…``.

``published`` takes the options of :func:`benchmarks.published.predict`, ``ours`` those of ``radiogenomics predict``, ``segment`` those
of ``radiogenomics segment``.
``BENCHMARK_STARTED`` in the environment is the time at which the process was asked for.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from .timers import Timers

UNCOUNTED = "uncounted"
"""What is done for the comparison alone."""

PARTS: dict[str, dict[str, list[str]]] = {
    "published": {
        "networks": [
            "segmentation_models_pytorch:UnetPlusPlus.__init__",
            "scripts.networks:BiLSTMNFNet.__init__",
            "scripts.weights:load_weights",
        ],
        "read": ["benchmarks.published:read_series"],
        "segment": ["benchmarks.published:segment"],
        "filter": ["benchmarks.published:write_slice"],
        "load": ["benchmarks.published:ClassificationSequences.__getitem__"],
        "encode": ["scripts.networks:BiLSTMNFNet.encode"],
        "sequence": ["scripts.networks:BiLSTMNFNet.classify"],
        "write": ["numpy:save", "benchmarks.published:write_results"],
        UNCOUNTED: ["benchmarks.published:write_label_maps"],
    },
    "ours": {
        "networks": [
            "scripts.networks:build_segmenter",
            "scripts.networks:BiLSTMNFNet.__init__",
            "scripts.weights:load_weights",
            "scripts.weights:load_classifiers",
            "scripts.weights:sha256",
            "scripts.runtimes:Runtime.accelerate",
        ],
        "read": ["scripts.preparation:SeriesDataset.__getitem__"],
        "segment": ["scripts.inferers:SliceSegmenter.__call__", "scripts.fusion:VolumeSegmenter.__call__"],
        "filter": ["custom_transforms:TumorRatioFilterd.__call__", "custom_transforms:ContourCountFilterd.__call__"],
        "load": ["scripts.loading:LoadSeries.__call__", "scripts.inferers:SequenceClassifier.resize"],
        "encode": ["scripts.inferers:SequenceClassifier.__call__"],
        "sequence": ["scripts.networks:BiLSTMNFNet.classify"],
        "write": [
            "scripts.preparation:SaveSeries.__call__",
            "scripts.masks:write_masks",
            "scripts.patients:write_predictions",
            "scripts.fusion:FuseSeries.__call__",
        ],
    },
}
PARTS["segment"] = PARTS["ours"]
"""What is timed, by way and part."""


def main() -> None:
    """Run the way named on the command line and write the seconds of its parts."""
    way, report, *options = sys.argv[1:]
    if way in ("ours", "segment"):
        from radiogenomics.scripts import cli
        from radiogenomics.scripts.commands import running

        running.bundle_module("runs")  # the bundle's own `scripts`, as the command finds it
        command = cli.main
        sys.argv = ["radiogenomics", "predict" if way == "ours" else way, *options]
    else:
        import fire

        from . import published

        def command() -> None:
            fire.Fire(published.predict)

        sys.argv = ["published", *options]
    timers = Timers(PARTS[way], float(os.environ["BENCHMARK_STARTED"]))
    command()
    Path(report).write_text(json.dumps(timers.seconds()))


if __name__ == "__main__":
    main()
