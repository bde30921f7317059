"""How trained networks compute: the only place where runtime and precision are decided.

A network prepared here replaces the original and gives the same answers, up to the rounding of its precision.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import nn

from .checks import PRECISIONS, RUNTIMES, TRAINING_RUNTIMES
from .environment import BUNDLE_ROOT
from .errors import UserError
from .inferers import has_fast_bf16, normalise
from .kernels import fold_constants, fold_decoder
from .networks import BiLSTMNFNet

logger = logging.getLogger(__name__)

CALIBRATION = BUNDLE_ROOT / "models" / "calibration.npz"
"""Phantom slices whose activations set the ranges of 8-bit arithmetic, so that a weights file always gives the same network."""
_FORMAT = "1"  # version of the cached compiled networks
_INSTALL = "pip install 'brats-mri-radiogenomics[openvino]'"


class RuntimeMissingError(UserError, ImportError):
    """A runtime, or a precision, that is not installed."""


class Runtime:
    """A runtime and a precision, chosen for a device.

    Args:
        device: where the networks run.
        runtime: ``eager`` runs a network as it was trained; ``torch`` folds constants and keeps channels last;
            ``inductor`` has torch compile that; ``openvino`` is for CPUs, and much faster there; ``auto`` is OpenVINO on a CPU
            where it is installed, else torch.
        precision: ``fp32``; ``bf16``, half precision (float16 on GPUs older than Ampere); ``int8``, 8-bit convolutions (OpenVINO
            on CPUs); ``auto`` is bf16 where the processor has matrix units for it, else fp32.
        amp: True or False chooses bf16 or fp32 where the precision is ``auto``.
        cache_dir: folder where compiled networks are kept; ``~/.cache/radiogenomics`` by default.

    Raises:
        ValueError: for an unknown runtime or precision, or an unsupported pair.
        RuntimeMissingError: when OpenVINO is requested and not installed.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        runtime: str = "auto",
        precision: str = "auto",
        amp: bool | str = "auto",
        cache_dir: str | Path | None = None,
    ) -> None:
        for name, value, known in (("runtime", runtime, RUNTIMES), ("precision", precision, PRECISIONS)):
            if value not in known:
                raise ValueError(f"{name} is {value!r}, expected one of {', '.join(known)}")
        self.device = torch.device(device)
        on_cpu = self.device.type == "cpu"
        if runtime == "auto":
            wanted = precision == "int8" or find_spec("openvino") is not None
            runtime = "openvino" if on_cpu and wanted else "torch"
        if precision == "auto":
            half = amp if isinstance(amp, bool) else not on_cpu or has_fast_bf16(self.device)
            precision = "bf16" if half else "fp32"
        if precision == "int8" and not on_cpu:
            logger.warning("int8 is for CPUs; on %s half precision is used", self.device)
            precision = "bf16"
        if precision == "int8" and runtime != "openvino":
            raise ValueError(f"precision int8 needs runtime openvino, not {runtime}")
        if runtime == "openvino":
            if not on_cpu:
                raise ValueError(f"runtime openvino is for CPUs, the device is {self.device}; use torch or inductor")
            for package in ("openvino", *(["nncf"] if precision == "int8" else [])):
                if find_spec(package) is None:
                    raise RuntimeMissingError(f"{package} is not installed; install it with {_INSTALL}")
        self.name, self.precision = runtime, precision
        self._networks: dict[str, OpenVINONetwork] = {}
        self._announced: set[str] = set()
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        self.cache_dir = Path(cache_dir) if cache_dir else cache / "radiogenomics"

    def __str__(self) -> str:
        return f"{self.name} {self.precision}"

    @property
    def amp(self) -> bool:
        """The inferers' ``amp``: whether torch is to autocast."""
        return self.precision == "bf16" and self.name != "openvino"

    @property
    def batch_size(self) -> int:
        """Slices in one forward pass: torch on a CPU is faster with few, whose activations stay in the cache, and needs less memory."""
        return 4 if self.device.type == "cpu" and self.name != "openvino" else 16

    def accelerate(self, network: nn.Module, image_size: int, consume: bool = False) -> nn.Module:
        """The replacement to call instead of a network, with normalised images ``(B, 3, image_size, image_size)``.

        Args:
            network: trained, on the runtime's device; of a classifier, or a ``ModuleDict`` or ``ModuleList`` of them, the backbones
                are replaced.
            image_size: side of its square input.
            consume: free the memory of the replaced parts, which then no longer compute.
        """
        if isinstance(network, (nn.ModuleDict, nn.ModuleList)):
            ready = {one: self.accelerate(one, image_size, consume) for one in dict.fromkeys(network.children())}
            if isinstance(network, nn.ModuleDict):
                return nn.ModuleDict({name: ready[one] for name, one in network.items()})
            return nn.ModuleList(ready[one] for one in network)
        kind = type(network).__name__
        if kind not in self._announced:  # once for all members of an ensemble
            logger.info("%s computes in %s", kind, self)
            self._announced.add(kind)
        if self.name == "eager":
            return network
        if isinstance(network, BiLSTMNFNet):
            copied = copy.copy(network)  # shares all but its backbone
            copied._modules = {**network._modules, "backbone": self._ready(network.backbone, image_size, True, consume)}
            return copied
        return self._ready(network, image_size, False, consume)

    def _ready(self, network: nn.Module, image_size: int, masked: bool, consume: bool) -> nn.Module:
        ready: Any
        if self.name == "openvino":
            ready = self._openvino_network(network, image_size, masked)
        else:
            ready = _channels_last(fold_constants(network))
            ready = torch.compile(ready) if self.name == "inductor" else ready
        if consume:
            network.to("meta")
        return ready

    def _openvino_network(self, network: nn.Module, image_size: int, masked: bool) -> OpenVINONetwork:
        """The same one for the same weights."""
        openvino = import_openvino()
        key = (_FORMAT, openvino.__version__, self.precision == "int8", image_size, masked, repr(network))
        digest = hashlib.sha256(repr(key).encode())
        for tensor in network.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        name = digest.hexdigest()[:32]
        if name in self._networks:
            return self._networks[name]
        options = {"INFERENCE_PRECISION_HINT": "bf16" if self.precision == "bf16" else "f32"}
        options["PERFORMANCE_HINT"] = "THROUGHPUT"  # one stream per core, one slice each: no core waits for another
        core = openvino.Core()
        with self._writable_cache() as cache:
            file = cache / f"{name}.xml"
            if not file.is_file():
                logger.info("preparing a network for %s, once for its weights; it is kept in %s", self, cache)
                self._convert(network.cpu(), image_size, masked, file)
            core.set_property({"CACHE_DIR": str(cache)})
            self._networks[name] = OpenVINONetwork(core.compile_model(str(file), "CPU", options))
        return self._networks[name]

    def _convert(self, network: nn.Module, image_size: int, masked: bool, file: Path) -> None:
        openvino = import_openvino()
        example = torch.zeros(1, 3, image_size, image_size)
        with contextlib.redirect_stdout(sys.stderr):
            model = openvino.convert_model(fold_constants(network), example_input=example, input=list(example.shape))
            if self.precision == "int8":
                import nncf

                images = calibration_images(image_size, masked)
                data = nncf.Dataset([image[None] for image in images])
                model = nncf.quantize(model, data, subset_size=len(images), preset=nncf.QuantizationPreset.MIXED)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.stem}.") as folder:
            made = Path(folder) / file.name
            openvino.save_model(model, str(made), compress_to_fp16=False)
            # the weights first: a network is there as soon as its .xml is
            os.replace(made.with_suffix(".bin"), file.with_suffix(".bin"))
            os.replace(made, file)

    @contextlib.contextmanager
    def _writable_cache(self) -> Iterator[Path]:
        """A folder for compiled networks, for this process only: OpenVINO's own files there break when two write them."""
        with contextlib.ExitStack() as stack:
            try:
                self.cache_dir.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=self.cache_dir).close()
                stack.enter_context(FileLock(self.cache_dir / "lock"))
                folder = self.cache_dir
            except (OSError, NotImplementedError) as error:  # the latter from file systems without locks
                logger.warning("%s can't be written (%s): compiled networks are not kept", self.cache_dir, error)
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
            yield folder


def for_training(network: nn.Module, device: torch.device | str, runtime: str = "torch") -> nn.Module:
    """A network to be trained, changed in place and on its device; its parameters keep their names and order.

    ``torch`` folds U-Net++'s enlargements and keeps channels last, ``inductor`` has torch compile that, ``eager`` changes nothing.
    """
    if runtime not in TRAINING_RUNTIMES:
        raise ValueError(f"runtime is {runtime!r}, expected one of {', '.join(TRAINING_RUNTIMES)}")
    if runtime != "eager":
        fold_decoder(network)
        images = getattr(network, "backbone", network)
        if not any(weight.ndim == 5 for weight in images.parameters()):  # of three dimensions
            _channels_last(images)
        if runtime == "inductor":
            network.compile()
    return network.to(device)


def _channels_last(network: nn.Module) -> nn.Module:
    """A network of 2D images, changed to keep channels last in memory, which convolutions prefer."""

    def arranged(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(one.contiguous(memory_format=torch.channels_last) for one in inputs)

    network.register_forward_pre_hook(arranged)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class OpenVINONetwork(nn.Module):
    """A network of one input ``(1, C, H, W)`` compiled by OpenVINO; a batch is computed by all of its streams side by side."""

    def __init__(self, compiled: Any) -> None:
        super().__init__()
        self.compiled = compiled
        self.queue = import_openvino().AsyncInferQueue(compiled)
        self.queue.set_callback(self._keep)
        self.results: np.ndarray = np.zeros(0)

    def _keep(self, request: Any, index: int) -> None:
        self.results[index] = request.get_output_tensor(0).data[0]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W)`` images on the CPU to ``(B, …)`` float32."""
        batch = images.float().contiguous().numpy()
        self.results = np.empty((len(batch), *list(self.compiled.output(0).shape)[1:]), dtype=np.float32)
        for index in range(len(batch)):
            self.queue.start_async(batch[index : index + 1], index)
        self.queue.wait_all()
        return torch.from_numpy(self.results)


def import_openvino() -> Any:
    """OpenVINO without its telemetry, which would report that it was imported."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def calibration_images(image_size: int, masked: bool) -> np.ndarray:
    """Normalised inputs ``(N, 3, image_size, image_size)``: grey phantom slices, or ``masked``, with WT and ET, as classifiers get them."""
    with np.load(CALIBRATION) as file:
        images = torch.from_numpy(file["image"]).float()
        masks = torch.from_numpy(np.unpackbits(file["masks"], axis=-1, count=images[0].numel())).float() * 255
    masks = masks.reshape(len(images), 2, *images.shape[1:])
    slices = torch.cat([images[:, None], masks], dim=1) if masked else images[:, None].expand(-1, 3, -1, -1)
    resized = nn.functional.interpolate(slices, size=(image_size, image_size), mode="bilinear")
    return normalise(resized).numpy()
