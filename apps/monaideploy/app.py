"""MONAI Deploy application: a folder of DICOM studies in; DICOM SEG, DICOM SR and a summary of each study out.

The operators only connect functions of the bundle. Research use only, not for diagnosis.

    python app.py -i STUDIES -o OUT -m MODELS
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import sys
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PREDICTION = "prediction"
RESULTS = "results"


def preload_cuda_runtime() -> None:
    """Load libcudart from NVIDIA's wheel, if installed: Holoscan links with it even on machines without a GPU.

    Without it nothing of MONAI can be imported in an environment of the Deploy SDK. A library that the loader finds by itself
    (``LD_LIBRARY_PATH``) takes precedence.
    """
    name = "libcudart.so.13"
    try:
        ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        spec = find_spec("nvidia")
        for place in spec.submodule_search_locations or () if spec else ():
            for library in sorted(Path(place).glob(f"*/lib/{name}")):
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
                return


preload_cuda_runtime()

from monai.deploy.conditions import CountCondition  # noqa: E402
from monai.deploy.core import AppContext, Application, ConditionType, Operator, OperatorSpec  # noqa: E402

import radiogenomics  # noqa: E402

# the bundle's own modules are imported under the name by which its configurations know them, so that they are loaded once
sys.path.insert(0, str(Path(radiogenomics.__file__).parent))

from scripts import datalists, weights  # noqa: E402
from scripts.dicom import output  # noqa: E402
from scripts.files import write_json  # noqa: E402
from scripts.report import study  # noqa: E402
from scripts.studies.folders import RULES_FILE, find_studies  # noqa: E402
from scripts.studies.table import write_studies  # noqa: E402

SHIPPED = Path(radiogenomics.__file__).parent / "models"
"""Folder of the default weights."""


def find_models(folder: str | Path) -> Path:
    """The folder that holds the weights: the given one, or one directly in it, as packages have it.

    Where it has only classifiers, the shipped segmenter is used with them; without a folder, it is used alone.

    Args:
        folder: the SDK's model path, ``models`` in the working directory where nothing is given.

    Raises:
        FileNotFoundError: when a given folder has no weights.
    """
    root = Path(folder)
    inner = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    for place in (root, *inner):
        if weights.find_segmenter(None, place) or any(weights.find_classifiers(None, place).values()):
            return place
    if root == Path("models").absolute() and not root.exists():
        return SHIPPED
    raise FileNotFoundError(
        f"{folder}: holds no weights; expected segmentation.pt or model_<modality>.pt (-m MODELS), or leave -m out: the shipped segmenter "
        "is used then, and MGMT stays at the prior"
    )


class StudySelectionOperator(Operator):
    """Finds the studies in the input folder and chooses their series: :func:`scripts.studies.folders.find_studies`.

    Output ``selection``: path of the data list.
    """

    def __init__(
        self,
        fragment: Application,
        *args: Any,
        folder: Path,
        rules: Path,
        work: Path,
        deidentify: bool,
        **kwargs: Any,
    ) -> None:
        self.folder, self.rules, self.work, self.deidentify = folder, rules, work, deidentify
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """One output, taken by the next two."""
        spec.output("selection").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Once per run."""
        entries = find_studies(self.folder, self.rules, self.deidentify)
        datalist = self.work / "datalist.json"
        write_json({"training": [], "validation": [], "test": entries}, datalist)
        op_output.emit(str(datalist), "selection")


class RadiogenomicsOperator(Operator):
    """Predicts the chosen studies with both stages: :func:`radiogenomics.predict`.

    Input ``selection``: path of the data list; output ``prediction``: that path, when the prediction is done.
    """

    def __init__(
        self, fragment: Application, *args: Any, models: Path, output: Path, settings: dict[str, Any], **kwargs: Any
    ) -> None:
        self.models, self.output, self.settings = models, output, settings
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """One input, one output."""
        spec.input("selection")
        spec.output("prediction").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Once per run."""
        datalist = op_input.receive("selection")
        segmenter = weights.find_segmenter(None, self.models) or weights.find_segmenter(None, SHIPPED)
        settings = {"models_dir": str(self.models), "segmenter": segmenter, "num_workers": 0, **self.settings}
        radiogenomics.predict(Path(datalist).parent, self.output, datalist=datalist, report=False, **settings)
        op_output.emit(datalist, "prediction")


class ResultsOperator(Operator):
    """Writes DICOM SEG and SR and the summary of each study: :mod:`scripts.dicom.output`, :mod:`scripts.report.study`.

    Input ``prediction``: path of the predicted data list.
    """

    def __init__(
        self, fragment: Application, *args: Any, prediction: Path, output: Path, deidentify: bool, **kwargs: Any
    ) -> None:
        self.prediction, self.output, self.deidentify = prediction, output, deidentify
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """One input."""
        spec.input("prediction")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Once per run."""
        datalist = op_input.receive("prediction")
        entries = datalists.select(datalist=datalist)
        predicted = json.loads((self.prediction / "patients.json").read_text(encoding="utf-8"))
        on = weights.enhancing_on(weights.segmenter_settings(predicted["weights"]["segmenter"]))
        prepared = self.prediction / "prepared"
        output.write_dicom(prepared, predicted["patients"], entries, self.output, self.deidentify, on)
        study.write_summaries(self.prediction, entries, self.output, on)
        write_studies(entries, self.output)


class RadiogenomicsApp(Application):
    """Studies in, SEG, SR and summaries out.

    Args:
        context: paths of input, output and models.
        work: folder for the chosen series, links to the input; it must not be in the output, which may be sent on unchanged.
    """

    def __init__(self, context: AppContext, work: Path, *args: Any, **kwargs: Any) -> None:
        self.context, self.work = context, work
        super().__init__(*args, **kwargs)

    def compose(self) -> None:
        """Chain the operators."""
        output = Path(self.context.output_path).absolute()
        own = self.kwargs("selection").get("rules")
        rules = HERE / str(own) if own else RULES_FILE
        deidentify = bool(self.kwargs("results").get("deidentify", False))
        select = StudySelectionOperator(
            self,
            CountCondition(self, 1),
            folder=Path(self.context.input_path).absolute(),
            rules=rules,
            work=self.work,
            deidentify=deidentify,
            name="study_selection",
        )
        predict = RadiogenomicsOperator(
            self,
            models=find_models(Path(self.context.model_path).absolute()),
            output=output / PREDICTION,
            settings=self.kwargs("prediction"),
            name="radiogenomics",
        )
        write = ResultsOperator(
            self,
            prediction=output / PREDICTION,
            output=output / RESULTS,
            deidentify=deidentify,
            name="results",
        )
        self.add_flow(select, predict, {("selection", "selection")})
        self.add_flow(predict, write, {("prediction", "prediction")})


def main() -> None:
    """Run the application; user errors end in one line and a non-zero status."""
    context = Application.init_app_context(sys.argv)
    # the engines' and the workflow's own messages say nothing to a user
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)
    logging.getLogger("ignite").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*nvImageCodec")
    with tempfile.TemporaryDirectory(prefix="radiogenomics-") as work:
        try:
            app = RadiogenomicsApp(context, Path(work) / "studies")
            app.config(os.environ.get("HOLOSCAN_CONFIG_PATH") or str(HERE / "app.yaml"))
            app.run()
        except (ValueError, OSError, ImportError) as error:
            if os.environ.get("RADIOGENOMICS_DEBUG"):
                raise
            sys.exit(f"error: {error}\n(RADIOGENOMICS_DEBUG=1 shows where)")


if __name__ == "__main__":
    main()
