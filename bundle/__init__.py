"""Glioma segmentation and MGMT promoter methylation from MRI. Research use only, not for diagnosis.

The functions are those of the command ``radiogenomics``.
"""

from .scripts.cli import (
    card,
    crossvalidate,
    datalist,
    demo,
    doctor,
    download,
    evaluate,
    explain,
    explore,
    export,
    headers,
    phantom,
    predict,
    prepare,
    pretrain,
    report,
    run_config,
    segment,
    show,
    studies,
    train,
    volumes,
)

__all__ = [
    "card",
    "crossvalidate",
    "datalist",
    "demo",
    "doctor",
    "download",
    "evaluate",
    "explain",
    "explore",
    "export",
    "headers",
    "phantom",
    "predict",
    "prepare",
    "pretrain",
    "report",
    "run_config",
    "segment",
    "show",
    "studies",
    "train",
    "volumes",
]
