"""Trained networks as files for other programs: TorchScript, ONNX, and OpenVINO's intermediate representation.

Each is compared with its network before it is kept, takes any number of images or sequences at once, and carries the metadata of
the bundle with the shapes of its own tensors. Research use only, as the metadata state.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser, ckpt_export
from monai.networks.utils import convert_to_onnx
from torch import nn

from . import model_files, weights
from .checks import SUFFIXES
from .environment import BUNDLE_ROOT
from .errors import UserError
from .files import written_whole
from .kernels import fold_constants
from .networks import build_classifier, build_segmenter
from .runtimes import import_openvino

logger = logging.getLogger(__name__)

EXTRAS = {"onnx": ("export", ("onnx", "onnxruntime")), "openvino": ("openvino", ("openvino",))}
TOLERANCE = 1e-4
"""Greatest difference from the network, relative to the greatest value of its answer."""
_CONFIGS = BUNDLE_ROOT / "configs"
_NETWORKS = {  # configuration and key of the metadata that describe a network; those of the stage-1 bundle come last
    "segmenter": (("inference_segmentation", "inference"), ("segmentation_data_format", "network_data_format")),
    "classifier": (("inference",), ("network_data_format",)),
}


class ExportError(UserError):
    """An exported file that disagrees with its network."""


def export(what: str, format: str, weights_file: str | Path, output: str | Path, overwrite: bool = False) -> Path:
    """Write a trained network as TorchScript, ONNX or OpenVINO; returns the file.

    The network's input is ``image``, normalised: ``(B, 3, S, S)`` slices for the segmenter, ``(B, N, 3, S, S)`` sequences for the
    classifier. Its output ``pred`` are logits: ``(B, 2, S, S)`` of WT and ET, ``(B, 1)`` of methylation. ``B`` is free; ``N`` and ``S``
    are those of the weights file (TorchScript takes any ``S`` that the network accepts).

    Args:
        what: ``segmenter`` or ``classifier``.
        format: ``torchscript``, ``onnx``, or ``openvino``.
        weights_file: from training, or released.
        output: file with suffix ``.ts`` (or ``.pt``), ``.onnx``, or ``.xml`` (beside a ``.bin``).
        overwrite: replace an existing file.

    Raises:
        ValueError: for another network, format or suffix.
        FileExistsError: when the file exists and is not to be replaced.
        ImportError: when a package is missing, with the extra that brings it.
        WeightsError: when the weights do not belong to such a network.
        ExportError: when the file disagrees with the network.
    """
    for name, value, known in (("what", what, _NETWORKS), ("format", format, SUFFIXES)):
        if value not in known:
            raise ValueError(f"--{name} {value!r}: expected one of {', '.join(known)}")
    file = Path(output)
    suffixes = [SUFFIXES[format], *([".pt"] if format == "torchscript" else [])]
    if file.suffix not in suffixes:
        raise ValueError(f"{file}: expected a name that ends with {' or '.join(suffixes)} for {format}")
    written = [file, *([file.with_suffix(".bin")] if format == "openvino" else [])]
    for one in written:
        if one.exists() and not overwrite:
            raise FileExistsError(f"{one} already exists; name another file, or add --overwrite to replace it")
    extra, packages = EXTRAS.get(format, ("", ()))
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ImportError(
            f"{' and '.join(missing)} not installed: pip install 'brats-mri-radiogenomics[{extra}]' to export to {format}"
        )
    network, shape = read_network(what, weights_file)
    meta, example = _described(what, shape), torch.rand(1, *shape)
    with torch.no_grad(), warnings.catch_warnings():
        # tracing warns that shapes became constants, and torch of its newer exporter
        warnings.simplefilter("ignore")
        if format == "torchscript":
            _write_torchscript(what, weights_file, network, example, file, meta)
        else:
            (_write_onnx if format == "onnx" else _write_openvino)(network, example, file, meta)
    logger.info("%s written, equal to the network within %g; research use only, not for diagnosis", file, TOLERANCE)
    return file


def network_of(what: str, settings: Mapping[str, Any]) -> nn.Module:
    """A ``segmenter`` or ``classifier`` without its weights, from the settings in a weights file."""
    return build_classifier(settings) if what == "classifier" else build_segmenter(settings)


def read_network(what: str, weights_file: str | Path) -> tuple[nn.Module, tuple[int, ...]]:
    """A trained network in eval mode, and the shape of one input of it, ``(3, S, S)`` or ``(N, 3, S, S)``."""
    classifier = what == "classifier"
    settings = (
        weights.classifier_settings({what: weights_file}) if classifier else weights.segmenter_settings(weights_file)
    )
    shape = (3, settings["image_size"], settings["image_size"])
    network = weights.load_weights(network_of(what, settings), weights_file).eval()
    return network, (settings["sequence_length"], *shape) if classifier else shape


def describe(what: str, weights_file: str | Path) -> str:
    """What a weights file of a ``segmenter`` or ``classifier`` is, once its network is built and its weights are loaded.

    Raises:
        WeightsError: when the weights do not belong to such a network.
    """
    settings = model_files.describe(weights_file).settings
    try:
        read_network(what, weights_file)
    except weights.WeightsError:
        raise
    except Exception as error:  # from the packages that build networks
        raise weights.WeightsError(
            f"{weights_file}: no {what} can be built from its settings {settings} ({error}); expected those that training writes"
        ) from error
    on = settings.pop("trained_on", "unknown")
    listed = ", ".join(f"{name} {value}" for name, value in settings.items()) or "none, so those of the method"
    return f"ok, a {what}; settings: {listed}; trained on {on}"


def _described(what: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """The bundle's metadata with the shapes of this network."""
    _, keys = _NETWORKS[what]
    meta = ConfigParser.load_config_file(_CONFIGS / "metadata.json")
    formats = copy.deepcopy(next(meta[key] for key in keys if key in meta))
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    image["num_channels"], image["spatial_shape"] = shape[0], list(shape[1:])
    described = image["channel_def"]
    image["channel_def"] = {str(i): described.get(str(i), f"slice {i} of the sequence") for i in range(shape[0])}
    if pred["spatial_shape"]:
        pred["spatial_shape"] = list(shape[1:])
    meta = {key: value for key, value in meta.items() if not key.endswith("_data_format")}
    return {**meta, "network_data_format": formats}


def _write_torchscript(
    what: str, weights_file: str | Path, network: nn.Module, example: torch.Tensor, file: Path, meta: Any
) -> None:
    """By MONAI's ``ckpt_export``; the classifier is scripted, the segmenter traced."""
    place: dict[str, Any] = {what: str(weights_file), "bundle_root": str(BUNDLE_ROOT)}
    configs = (_CONFIGS / f"{name}.yaml" for name in _NETWORKS[what][0])
    with written_whole(file) as temporary, tempfile.TemporaryDirectory() as folder:
        described = Path(folder) / "metadata.json"
        described.write_text(json.dumps(meta), encoding="utf-8")
        ckpt_export(
            net_id="network_def",
            filepath=str(temporary),
            ckpt_file=str(weights_file),
            key_in_ckpt="model",  # where the file has such a key
            meta_file=str(described),
            config_file=str(next(config for config in configs if config.is_file())),
            use_trace=what == "segmenter",
            input_shape=list(example.shape),
            **place,
        )
        loaded = torch.jit.load(str(temporary)).eval()
        _compare(network, example, lambda images: loaded(images).numpy(), file)


def _write_onnx(network: nn.Module, example: torch.Tensor, file: Path, meta: Any) -> None:
    """With constants folded; the metadata are properties of the model. MONAI's ``onnx_export`` can do neither."""
    import onnx
    import onnxruntime

    free = {"image": {0: "batch"}, "pred": {0: "batch"}}
    # torch's newer exporter takes a minute where this one takes seconds, and gives the same; torch 2.4 has no other
    options: dict[str, Any] = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["pred"], "dynamic_axes": free}
    with contextlib.redirect_stdout(sys.stderr):
        model = convert_to_onnx(fold_constants(network), [example], **names, **options)
    model.producer_name, model.producer_version = "brats-mri-radiogenomics", str(meta["version"])
    onnx.helper.set_model_props(model, {"metadata.json": json.dumps(meta)})
    onnx.checker.check_model(model)
    with written_whole(file) as temporary:
        onnx.save(model, str(temporary))
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        _compare(network, example, lambda images: session.run(["pred"], {"image": images.numpy()})[0], file)


def _write_openvino(network: nn.Module, example: torch.Tensor, file: Path, meta: Any) -> None:
    """In float32, with constants folded; the metadata are run-time information of the model. MONAI has no such export."""
    openvino = import_openvino()
    folded = fold_constants(network)
    with contextlib.redirect_stdout(sys.stderr):
        # as a function, because OpenVINO can't take a traced module with further compiled methods, as the classifier's
        traced = torch.jit.trace(lambda images: folded(images), example)
        model = openvino.convert_model(traced, example_input=example, input=[-1, *example.shape[1:]])
    model.inputs[0].get_tensor().set_names({"image"})
    model.outputs[0].get_tensor().set_names({"pred"})
    model.set_rt_info(json.dumps(meta), ["metadata.json"])
    with written_whole(file) as temporary, written_whole(file.with_suffix(".bin")) as binary:  # kept before the .xml
        openvino.save_model(model, str(temporary), compress_to_fp16=False)
        core = openvino.Core()
        read = core.read_model(str(temporary), str(binary))
        compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        _compare(network, example, lambda images: compiled(images.numpy())[0], file)


def _compare(network: nn.Module, example: torch.Tensor, answer: Any, file: Path) -> None:
    """Raise ExportError unless both answer alike to more images or sequences at once than the file was made with."""
    images = torch.rand(2 * len(example), *example.shape[1:])
    expected = network(images).numpy()
    found = np.asarray(answer(images))
    allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    difference = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("nan")
    if not difference <= allowed:
        raise ExportError(
            f"{file} was not written: it gave {found.shape} where the network gives {expected.shape}, with a difference of "
            f"{difference:g} where {allowed:g} is allowed; try another version of torch or of the runtime"
        )
