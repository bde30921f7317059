import copy
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import filelock
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch

from scripts import runtimes
from scripts.networks import BiLSTMNFNet
from scripts.runtimes import Runtime, RuntimeMissingError, calibration_images, for_training
from tests.forked import python_words
from tests.networks import with_statistics

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")

pytestmark = pytest.mark.slow  # networks are compiled or written for other runtimes

SIZE = 64


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(0)
    network = smp.UnetPlusPlus(
        "timm-mobilenetv3_small_minimal_100", encoder_weights=None, classes=2, decoder_channels=(32, 16, 16, 8, 8)
    )
    return with_statistics(network)


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return BiLSTMNFNet("test_nfnet", sequence_length=3, hidden_size=4).eval()


@pytest.fixture(scope="module")
def images():
    return torch.from_numpy(calibration_images(SIZE, masked=True)[::8])


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


WAYS = [
    pytest.param("torch", "fp32", 1e-5, id="torch-fp32"),
    pytest.param("openvino", "fp32", 1e-5, id="openvino-fp32", marks=needs_openvino),
    pytest.param("openvino", "bf16", 0.05, id="openvino-bf16", marks=needs_openvino),
    pytest.param("openvino", "int8", 0.3, id="openvino-int8", marks=needs_openvino),
]


@pytest.mark.parametrize(("name", "precision", "tolerance"), WAYS)
def test_a_segmenter_answers_as_it_was_trained(segmenter, images, cache, name, precision, tolerance):
    before = copy.deepcopy(segmenter.state_dict())
    fast = Runtime("cpu", name, precision, cache_dir=cache).accelerate(segmenter, SIZE)
    with torch.no_grad():
        assert relative(fast(images), segmenter(images)) < tolerance
    assert all(torch.equal(value, before[key]) for key, value in segmenter.state_dict().items())


@pytest.mark.parametrize(("name", "precision", "tolerance"), WAYS)
def test_classifiers_answer_as_they_were_trained(classifier, images, cache, name, precision, tolerance):
    other = copy.deepcopy(classifier)
    with torch.no_grad():
        other.clf_head.bias += 1
    both = torch.torch.nn.ModuleDict({"FLAIR": classifier, "T2w": other})
    fast = Runtime("cpu", name, precision, cache_dir=cache).accelerate(both, SIZE)
    with torch.no_grad():
        for mri_type, trained in both.items():
            features = fast[mri_type].encode(images)
            assert relative(features, trained.encode(images)) < tolerance
            torch.testing.assert_close(
                fast[mri_type].classify(features[None, :3]), trained.classify(features[None, :3])
            )
    assert type(classifier.backbone).__name__ != "OpenVINONetwork"


def test_what_many_networks_compute_in_is_reported_once(classifier, caplog):
    members = torch.nn.ModuleList(copy.deepcopy(classifier) for _ in range(3))
    with caplog.at_level("INFO"):
        Runtime("cpu", "torch", "fp32").accelerate(torch.torch.nn.ModuleDict({"FLAIR": members, "T2w": members}), SIZE)
    assert [record.getMessage() for record in caplog.records] == ["BiLSTMNFNet computes in torch fp32"]


@pytest.mark.parametrize("name", ["torch", pytest.param("openvino", marks=needs_openvino)])
def test_what_is_replaced_can_be_freed(segmenter, classifier, images, cache, name):
    runtime = Runtime("cpu", name, "fp32", cache_dir=cache)
    for trained in (segmenter, torch.torch.nn.ModuleDict({"FLAIR": classifier, "T2w": copy.deepcopy(classifier)})):
        consumed = copy.deepcopy(trained)
        fast, kept = runtime.accelerate(consumed, SIZE, consume=True), runtime.accelerate(trained, SIZE)
        replaced = [one.backbone for one in consumed.values()] if trained is not segmenter else [consumed]
        assert all(parameter.is_meta for one in replaced for parameter in one.parameters())
        with torch.no_grad():
            if trained is segmenter:
                assert torch.equal(fast(images), kept(images))
            else:
                sequences = images[None, :3]
                assert torch.equal(fast["T2w"](sequences), kept["T2w"](sequences))
                assert (fast["T2w"].backbone is fast["FLAIR"].backbone) == (name == "openvino")


def test_eager_is_the_network_itself(segmenter, classifier):
    runtime = Runtime("cpu", "eager")
    assert runtime.accelerate(segmenter, SIZE) is segmenter
    assert runtime.accelerate(classifier, SIZE) is classifier


def test_torch_can_compile(segmenter, images, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network: torch.nn.Sequential(network))
    compiled = Runtime("cpu", "inductor", "fp32").accelerate(segmenter, SIZE)
    assert isinstance(compiled, torch.nn.Sequential)
    with torch.no_grad():
        assert relative(compiled(images), segmenter(images)) < 1e-5


@needs_openvino
def test_answers_do_not_depend_on_the_batch(segmenter, images, cache):
    fast = Runtime("cpu", "openvino", "fp32", cache_dir=cache).accelerate(segmenter, SIZE)
    together = fast(images)
    one_by_one = torch.cat([fast(image[None]) for image in images])
    assert torch.equal(together, one_by_one)
    assert fast(images[:0]).shape == (0, 2, SIZE, SIZE)


@needs_openvino
def test_a_compiled_network_is_kept_for_the_same_weights_alone(segmenter, tmp_path, monkeypatch):
    converted = []
    convert = Runtime._convert
    monkeypatch.setattr(Runtime, "_convert", lambda self, *args: [converted.append(args[-1]), convert(self, *args)])
    runtime = Runtime("cpu", "openvino", "fp32", cache_dir=tmp_path)
    for _ in range(2):
        runtime.accelerate(segmenter, SIZE)
    assert len(converted) == 1
    other = copy.deepcopy(segmenter)
    with torch.no_grad():
        next(other.parameters()).mul_(1.01)
    runtime.accelerate(other, SIZE)
    runtime.accelerate(segmenter, 2 * SIZE)
    assert len(set(converted)) == 3
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@needs_openvino
def test_a_conversion_that_breaks_off_leaves_nothing(segmenter, tmp_path, monkeypatch):
    import openvino

    def fail(*args, **kwargs):
        Path(args[1]).write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(openvino, "save_model", fail)
    with pytest.raises(KeyboardInterrupt):
        Runtime("cpu", "openvino", "fp32", cache_dir=tmp_path).accelerate(segmenter, SIZE)
    assert not [path for path in tmp_path.iterdir() if path.name != "lock"]


@needs_openvino
def test_processes_that_are_started_at_once_compile_one_after_the_other(segmenter, tmp_path, monkeypatch):
    """OpenVINO would end them with a bus error, or not find the file that it has just written."""
    import openvino

    held = []

    def note(function):
        def noting(*args, **kwargs):
            with pytest.raises(filelock.Timeout):
                filelock.FileLock(tmp_path / "lock", timeout=0).acquire()
            held.append(function.__name__)
            return function(*args, **kwargs)

        return noting

    monkeypatch.setattr(Runtime, "_convert", note(Runtime._convert))
    monkeypatch.setattr(openvino.Core, "compile_model", note(openvino.Core.compile_model))
    Runtime("cpu", "openvino", "fp32", cache_dir=tmp_path).accelerate(segmenter, SIZE)
    assert held == ["_convert", "compile_model"]
    with filelock.FileLock(tmp_path / "lock", timeout=0):
        pass


@needs_openvino
def test_where_files_can_not_be_locked_networks_are_not_kept(segmenter, tmp_path, monkeypatch, caplog):
    def refuse(self):
        raise NotImplementedError("no locks here")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    Runtime("cpu", "openvino", "fp32", cache_dir=tmp_path).accelerate(segmenter, SIZE)
    assert "no locks here" in caplog.text
    assert not list(tmp_path.iterdir())


@needs_openvino
def test_without_a_folder_to_keep_networks_in_it_works_all_the_same(segmenter, images, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    fast = Runtime("cpu", "openvino", "fp32", cache_dir=tmp_path / "file").accelerate(segmenter, SIZE)
    assert "can't be written" in caplog.text
    with torch.no_grad():
        assert relative(fast(images), segmenter(images)) < 1e-5


@needs_openvino
def test_openvino_sends_no_usage_reports():
    code = (
        "import sys; from scripts.runtimes import Runtime, import_openvino; import_openvino(); import nncf;"
        "assert sys.modules['openvino_telemetry'] is None"
    )
    home = {"HOME": "/nonexistent", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([*python_words(), "-c", code], check=True, env={**os.environ, **home}, timeout=300)


def test_choices_that_make_no_sense_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="runtime is 'tensorrt', expected one of auto, eager"):
        Runtime("cpu", "tensorrt")
    with pytest.raises(ValueError, match="precision is 'fp8'"):
        Runtime("cpu", precision="fp8")
    with pytest.raises(ValueError, match="int8 needs runtime openvino, not torch"):
        Runtime("cpu", "torch", "int8")
    with pytest.raises(ValueError, match="openvino is for CPUs"):
        Runtime("cuda", "openvino")
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None)
    with pytest.raises(RuntimeMissingError, match=r"install it with pip install 'brats-mri-radiogenomics\[openvino\]'"):
        Runtime("cpu", precision="int8")
    assert Runtime("cpu").name == "torch"


@pytest.mark.parametrize("fast_bf16", [True, False])
def test_what_is_chosen_by_itself(fast_bf16, monkeypatch):
    monkeypatch.setattr(runtimes, "has_fast_bf16", lambda device: fast_bf16)
    monkeypatch.setattr(runtimes, "find_spec", lambda name: object())
    chosen = "bf16" if fast_bf16 else "fp32"
    assert str(Runtime("cpu")) == f"openvino {chosen}"
    assert str(Runtime("cpu", amp=False)) == "openvino fp32"
    assert str(Runtime("cpu", amp=True)) == "openvino bf16"
    assert str(Runtime("cuda")) == "torch bf16"
    assert str(Runtime("cuda", precision="int8")) == "torch bf16"
    assert not Runtime("cpu", "openvino", "bf16").amp
    assert Runtime("cpu", "eager", "bf16").amp


@pytest.mark.parametrize("fixture", ["segmenter", "classifier"])
@pytest.mark.parametrize("runtime", ["torch", "inductor"])
def test_networks_train_fast_with_the_same_parameters_and_gradients(fixture, runtime, images, request, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: None)
    trained = copy.deepcopy(request.getfixturevalue(fixture)).double()
    fast = for_training(copy.deepcopy(trained), "cpu", runtime)
    assert list(fast.state_dict()) == list(trained.state_dict())
    inputs = images.double() if fixture == "segmenter" else images.double()[None, :3]
    for network in (trained, fast):
        network(inputs).square().mean().backward()
    for (name, expected), found in zip(trained.named_parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, msg=name)


def test_networks_train_with_their_channels_last(segmenter, classifier, images):
    seen = []

    def note(module, inputs):
        seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    for network, inputs in ((segmenter, images), (classifier, images[None, :3])):
        fast = for_training(copy.deepcopy(network), "cpu")
        for module in fast.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_pre_hook(note)
        fast(inputs)
    assert seen
    assert all(seen)


def test_eager_training_changes_nothing(segmenter):
    network = copy.deepcopy(segmenter)
    assert for_training(network, "cpu", "eager") is network
    assert type(network.decoder.blocks["x_0_0"]) is type(segmenter.decoder.blocks["x_0_0"])
    with pytest.raises(ValueError, match="runtime is 'openvino', expected one of eager, torch, inductor"):
        for_training(network, "cpu", "openvino")


def test_calibration_slices_are_what_the_networks_are_shown():
    grey, masked = calibration_images(SIZE, masked=False), calibration_images(SIZE, masked=True)
    assert grey.shape == masked.shape
    assert grey.shape[1:] == (3, SIZE, SIZE)
    assert grey.dtype == np.float32
    np.testing.assert_allclose(grey[:, 0], masked[:, 0])
    assert ((masked[:, 1] > 0) & (masked[:, 2] > 0)).any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("name", ["torch", "inductor"])
def test_on_a_gpu(segmenter, images, name):
    runtime = Runtime("cuda", name)
    fast = runtime.accelerate(copy.deepcopy(segmenter).to("cuda"), SIZE)
    with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
        assert relative(fast(images.to("cuda")).cpu().float(), segmenter(images)) < 0.1


def test_what_several_modalities_share_is_made_ready_once():
    shared = smp.Unet("tu-test_efficientnet", encoder_weights=None, decoder_channels=(16, 8, 8, 4, 4)).eval()
    other = copy.deepcopy(shared)
    networks = torch.nn.ModuleDict({"FLAIR": shared, "T1w": other, "T2w": shared})
    ready = Runtime("cpu", "torch").accelerate(networks, 32, consume=True)
    assert ready["FLAIR"] is ready["T2w"] is not ready["T1w"]
    assert list(ready) == ["FLAIR", "T1w", "T2w"]
