"""The field's networks have the published sizes and names."""

import numpy as np
import pytest
import torch
from monai.networks.nets import resnet10
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scripts.baselines import fitting
from scripts.baselines.members import find_members, load, of_file, stack_settings
from scripts.baselines.models import names, numbers
from scripts.baselines.networks import CNN3D, SMALLEST, STACKED, ResNet10, build_baseline
from scripts.errors import UserError
from scripts.model_files import WeightsError


def test_cnn3d_has_the_parameters_that_its_summary_prints():
    network = CNN3D()
    trained = sum(value.numel() for value in network.parameters())
    kept = sum(value.numel() for name, value in network.named_buffers() if "running" in name)
    assert (trained, trained + kept) == (1_252_801, 1_253_825)


@pytest.mark.slow
def test_cnn3d_has_the_shapes_that_its_summary_prints():
    shapes = []
    network = CNN3D().eval()
    for layer in network.features:
        if not isinstance(layer, torch.nn.ReLU):
            layer.register_forward_hook(lambda _, __, found: shapes.append((*found.shape[2:], found.shape[1])))
    assert network(torch.zeros((1, 32, 128, 128))).shape == (1, 1)
    assert shapes == [
        (126, 126, 30, 64), (63, 63, 15, 64), (63, 63, 15, 64),
        (61, 61, 13, 64), (30, 30, 6, 64), (30, 30, 6, 64),
        (28, 28, 4, 128), (28, 28, 4, 128),
        (26, 26, 2, 256), (26, 26, 2, 256),
    ]  # fmt: skip


@pytest.mark.parametrize("model", STACKED)
def test_the_smallest_stack_that_is_accepted_passes(model):
    size, slices = SMALLEST.get(model, (8, 1))
    network = build_baseline({"model": model}).eval()
    assert network(torch.rand((2, slices, size, size)) * 255).shape == (2, 1)
    with pytest.raises(ValueError, match=f"needs at least {size}"):
        stack_settings(model, image_size=size - 1, slices=slices)


@pytest.mark.slow
def test_resnet10_reads_published_weights_strictly_and_answers_as_monais(tmp_path):
    torch.manual_seed(0)
    theirs = resnet10(spatial_dims=3, n_input_channels=1, num_classes=1).eval()
    assert {"conv1.weight", "layer4.0.conv2.weight", "fc.weight", "fc.bias"} <= set(theirs.state_dict())
    released = tmp_path / "released"
    released.mkdir()
    for fold in range(2):
        torch.save(theirs.state_dict(), released / f"3d-resnet10_T1wCE_fold{fold}_0.5{fold}0.pth")
    members = find_members("resnet10", None, tmp_path)
    assert [list(member) for member in members] == [["T1wCE"], ["T1wCE"]]
    networks = load(members, "resnet10")
    stack = torch.randint(0, 256, (1, 6, 20, 24))
    # as the winner stacks them: (columns, rows, slices) in 0…1
    volume = torch.from_numpy(np.stack(list(stack[0].numpy() / 255)).T[None, None]).float()
    for network in networks["T1wCE"]:
        torch.testing.assert_close(network(stack), theirs(volume))
    assert of_file(released / "3d-resnet10_T1wCE_fold0_0.500.pth", "resnet10")["slices"] == 64


@pytest.mark.slow
def test_resnet10_refuses_what_lacks_a_weight(tmp_path):
    state = ResNet10().state_dict()
    del state["fc.bias"]
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"fc\.bias"):
        load([{"T1wCE": str(tmp_path / "weights.pth")}], "resnet10")


def test_without_published_weights_the_message_says_where_to_get_them(tmp_path):
    with pytest.raises(WeightsError, match="radiogenomics download"):
        find_members("resnet10", None, tmp_path)
    with pytest.raises(WeightsError, match="train baseline --model cnn3d"):
        find_members("cnn3d", None, tmp_path)


def test_unknown_models_are_refused_by_name():
    with pytest.raises(UserError, match="cnn4d: expected one of cnn3d, resnet10"):
        numbers("cnn4d")
    assert names()[-1] == "t4e"
    with pytest.raises(UserError, match="t4e"):
        build_baseline({"model": "t4e"})


def cases(seed=0, patients=40, features=6):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(patients, features)).astype(np.float32)
    return values, (values[:, -1] + rng.normal(size=patients) > 0).astype(int), rng.normal(size=(25, features))


def test_the_forest_answers_as_scikit_learns():
    values, labels, others = cases()
    known = {"trees": 30, "min_leaf": 2}
    network = fitting._forest(values, labels, known, seed=3)
    theirs = RandomForestClassifier(n_estimators=30, min_samples_leaf=2, random_state=3).fit(values, labels)
    everything = np.concatenate([values, others.astype(np.float32)])
    chances = network(torch.from_numpy(everything)).sigmoid()[:, 0].numpy()
    np.testing.assert_allclose(chances, theirs.predict_proba(everything)[:, 1].clip(1e-6, 1 - 1e-6), atol=1e-6)
    np.testing.assert_allclose(network.importance.numpy(), theirs.feature_importances_)


def test_the_regression_answers_as_scikit_learns():
    values, labels, others = cases(features=1)
    network = fitting._regression(values, labels, {}, seed=0)
    theirs = make_pipeline(StandardScaler(), LogisticRegression()).fit(values.astype(np.float64), labels)
    chances = network(torch.from_numpy(others)).sigmoid()[:, 0].detach().numpy()
    np.testing.assert_allclose(chances, theirs.predict_proba(others)[:, 1], atol=1e-5)


@pytest.mark.parametrize("kind", ["_forest", "_regression"])
def test_what_could_not_be_measured_is_filled_in(kind):
    values, labels, _ = cases()
    network = getattr(fitting, kind)(values, labels, {"trees": 5, "min_leaf": 2}, seed=0)
    network.fill[:] = 0.7
    known = torch.zeros((1, 6))
    known[0, 2] = 0.7
    unknown = known.clone()
    unknown[0, 2] = float("nan")
    torch.testing.assert_close(network(unknown), network(known))
