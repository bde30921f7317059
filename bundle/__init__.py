"""Glioma segmentation and MGMT promoter methylation from MRI. Research use only, not for diagnosis.

The functions are those of the command ``radiogenomics``.
"""

from .scripts.cli import (
    datalist,
    demo,
    doctor,
    download,
    evaluate,
    phantom,
    predict,
    prepare,
    report,
    run_config,
    train,
)

__all__ = [
    "datalist",
    "demo",
    "doctor",
    "download",
    "evaluate",
    "phantom",
    "predict",
    "prepare",
    "report",
    "run_config",
    "train",
]
