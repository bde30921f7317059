import json
import subprocess
from importlib.util import find_spec

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from monai.data import load_net_with_metadata

from scripts import exports, runtimes
from scripts.exports import ExportError, export
from scripts.networks import build_classifier
from scripts.weights import WeightsError, save_weights
from tests.forked import python_words
from tests.networks import with_statistics

pytestmark = pytest.mark.slow  # networks are compiled or written for other runtimes

SMALL = {
    "segmenter": {"encoder_name": "tu-test_efficientnet", "decoder_channels": [16, 8, 8, 4, 4], "image_size": 64},
    "classifier": {
        "backbone": "test_nfnet", "image_size": 64, "sequence_length": 3, "stride": 2, "hidden_size": 4, "mri_type": "FLAIR",
    },
}  # fmt: skip
SHAPES = {"segmenter": (3, 64, 64), "classifier": (3, 3, 64, 64)}
FORMATS = [
    pytest.param(name, marks=pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed"))
    for name, package in (("torchscript", "torch"), ("onnx", "onnxruntime"), ("openvino", "openvino"))
]


def make(what, settings):
    torch.manual_seed(0)
    if what == "classifier":
        return build_classifier(settings).eval()
    network = smp.UnetPlusPlus(
        settings.get("encoder_name", "densenet121"),
        encoder_weights=None,
        decoder_channels=settings.get("decoder_channels", (256, 128, 64, 32, 16)),
        classes=2,
    )
    return with_statistics(network)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Both small networks and their weights files."""
    folder = tmp_path_factory.mktemp("weights")
    found = {}
    for what, settings in SMALL.items():
        network = make(what, settings)
        save_weights(network, settings, folder / f"{what}.pt")
        found[what] = network, folder / f"{what}.pt"
    return found


def runner(format, file):
    """What answers to images as the file does: another program's runtime, none of ours."""
    if format == "torchscript":
        module = torch.jit.load(str(file)).eval()
        return lambda images: module(images).detach().numpy()
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return lambda images: session.run(["pred"], {"image": images.numpy()})[0]
    openvino = runtimes.import_openvino()
    compiled = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: compiled({"image": images.numpy()})["pred"]


def metadata(format, file):
    if format == "torchscript":
        return load_net_with_metadata(str(file), more_extra_files=())[1]
    if format == "onnx":
        import onnx

        return json.loads({entry.key: entry.value for entry in onnx.load(str(file)).metadata_props}["metadata.json"])
    model = runtimes.import_openvino().Core().read_model(str(file))
    return json.loads(model.get_rt_info(["metadata.json"]).astype(str))


@pytest.fixture(scope="module", params=FORMATS)
def format(request):
    return request.param


@pytest.fixture(scope="module", params=["segmenter", "classifier"])
def exported(request, format, trained, tmp_path_factory):
    """What is in the file, its format, and the file, alone in its folder."""
    file = tmp_path_factory.mktemp("exported") / f"network{exports.SUFFIXES[format]}"
    assert export(request.param, format, trained[request.param][1], file) == file
    return request.param, format, file


def test_a_file_answers_as_its_network(trained, exported):
    what, format, file = exported
    answer = runner(format, file)
    for batch in (1, 2, 5):
        images = torch.randn(batch, *SHAPES[what], generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            np.testing.assert_allclose(answer(images), trained[what][0](images).numpy(), atol=1e-4)


def test_nothing_else_is_left(exported):
    _, format, file = exported
    suffixes = {".xml", ".bin"} if format == "openvino" else {exports.SUFFIXES[format]}
    assert {path.name for path in file.parent.iterdir()} == {f"network{suffix}" for suffix in suffixes}


def test_a_file_describes_itself(exported):
    what, format, file = exported
    meta = metadata(format, file)
    assert "Research use only" in meta["intended_use"]
    assert [key for key in meta if key.endswith("_data_format")] == ["network_data_format"]
    image = meta["network_data_format"]["inputs"]["image"]
    assert (image["num_channels"], *image["spatial_shape"]) == SHAPES[what]
    assert len(image["channel_def"]) == SHAPES[what][0]
    pred = meta["network_data_format"]["outputs"]["pred"]
    assert (pred["num_channels"], *pred["spatial_shape"]) == {"segmenter": (2, 64, 64), "classifier": (1,)}[what]


def test_torchscript_carries_the_configuration(tmp_path, trained):
    file = export("classifier", "torchscript", trained["classifier"][1], tmp_path / "network.pt")
    _, _, files = load_net_with_metadata(str(file), more_extra_files=("inference.json",))
    assert json.loads(files["inference.json"])["network_def"]["_target_"] == "scripts.networks.build_classifier"


@pytest.mark.parametrize("what", ["segmenter", "classifier"])
def test_the_method_s_own_networks(tmp_path, what):
    """All of their layers, on small images."""
    pytest.importorskip("onnxruntime")
    network = make(what, {})
    save_weights(network, {"image_size": 32}, tmp_path / "weights.pt")
    file = export(what, "onnx", tmp_path / "weights.pt", tmp_path / "network.onnx")
    shape = {"segmenter": (3, 32, 32), "classifier": (35, 3, 32, 32)}[what]
    images = torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = network(images).numpy()
    np.testing.assert_allclose(runner("onnx", file)(images), expected, atol=1e-4 * max(1, np.abs(expected).max()))


def test_flat_weights_have_the_method_s_settings(tmp_path):
    torch.save(make("segmenter", {}).state_dict(), tmp_path / "flat.pth")
    network, shape = exports.read_network("segmenter", tmp_path / "flat.pth")
    assert shape == (3, 224, 224)
    assert not network.training


def test_nothing_is_replaced_unasked(tmp_path, trained):
    file = tmp_path / "network.ts"
    file.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"network\.ts.*--overwrite"):
        export("segmenter", "torchscript", trained["segmenter"][1], file)
    assert file.read_bytes() == b"mine"
    export("segmenter", "torchscript", trained["segmenter"][1], file, overwrite=True)
    assert runner("torchscript", file)(torch.zeros(1, *SHAPES["segmenter"])).shape == (1, 2, 64, 64)


def test_weights_beside_an_openvino_model_are_not_replaced_either(tmp_path, trained):
    pytest.importorskip("openvino")
    (tmp_path / "network.bin").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"network\.bin"):
        export("segmenter", "openvino", trained["segmenter"][1], tmp_path / "network.xml")
    assert [path.name for path in tmp_path.iterdir()] == ["network.bin"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"what": "both"}, "--what 'both'.*segmenter, classifier"),
        ({"format": "tensorrt"}, "--format 'tensorrt'.*torchscript, onnx, openvino"),
        ({"output": "network.onnx"}, r"network\.onnx.*ends with \.ts or \.pt"),
    ],
)
def test_what_can_t_be_asked_for(tmp_path, trained, words, message):
    asked = {"what": "segmenter", "format": "torchscript", "output": "network.ts"} | words
    with pytest.raises(ValueError, match=message):
        export(asked["what"], asked["format"], trained["segmenter"][1], tmp_path / asked["output"])
    assert not list(tmp_path.iterdir())


def test_weights_of_the_other_network_are_refused(tmp_path, trained):
    with pytest.raises(WeightsError, match=r"classifier\.pt: these weights are not for this network"):
        export("segmenter", "torchscript", trained["classifier"][1], tmp_path / "network.ts")


def test_a_missing_package_is_named_with_its_extra(tmp_path, trained, monkeypatch):
    monkeypatch.setattr(exports, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"onnx and onnxruntime.*brats-mri-radiogenomics\[export\]"):
        export("segmenter", "onnx", trained["segmenter"][1], tmp_path / "network.onnx")


def test_a_file_that_answers_otherwise_is_not_kept(tmp_path, trained, monkeypatch, format):
    compare = exports._compare

    def changed(network, example, answer, file):
        with torch.no_grad():
            network.segmentation_head[0].bias += 0.01
        compare(network, example, answer, file)

    monkeypatch.setattr(exports, "_compare", changed)
    with pytest.raises(ExportError, match=r"was not written.*difference of 0\.01"):
        export("segmenter", format, trained["segmenter"][1], tmp_path / f"network{exports.SUFFIXES[format]}")
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path, trained):
    code = "from radiogenomics.scripts.cli import main; main()"
    words = ["export", "--what", "classifier", "--format", "torchscript", "--weights", str(trained["classifier"][1])]
    words += ["--output", str(tmp_path / "network.ts")]
    done = subprocess.run([*python_words(), "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "network.ts")
    assert "research use only" in done.stderr
