import os
import platform
import subprocess
import zipfile
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

from scripts import weights
from scripts.errors import UserError
from scripts.model_files import WeightsError
from scripts.networks import BiLSTMNFNet, build_classifier, build_segmenter
from tests.forked import python_words
from tests.networks import SETTINGS, TINY, classifier, segmenter


def same(first, second):
    first, second = first.state_dict(), second.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return str(path)


# Reading and writing


def test_what_is_saved_is_loaded(tmp_path):
    saved, other = classifier(1), classifier(2)
    file = tmp_path / "new" / "model.pt"
    weights.save_weights(saved, SETTINGS, file)
    assert not same(saved, other)
    assert weights.load_weights(other, file) is other
    assert same(saved, other)
    state, settings = weights.read_weights(file)
    assert settings == SETTINGS
    assert state.keys() == saved.state_dict().keys()


def test_a_flat_state_dict_is_loaded(tmp_path):
    saved, other = classifier(1), classifier(2)
    torch.save(saved.state_dict(), tmp_path / "flat.pth")
    assert weights.read_weights(tmp_path / "flat.pth")[1] == {}
    assert same(weights.load_weights(other, tmp_path / "flat.pth"), saved)


def test_saving_replaces_whole_files_only(tmp_path, monkeypatch):
    file = tmp_path / "model.pt"
    weights.save_weights(classifier(1), SETTINGS, file)
    before = file.read_bytes()

    def fail_half_way(content, stream):
        stream.write(b"half")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail_half_way)
        with pytest.raises(OSError, match="disk full"):
            weights.save_weights(classifier(2), SETTINGS, file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
    weights.save_weights(classifier(2), SETTINGS, file)
    assert same(weights.load_weights(classifier(1), file), classifier(2))


def test_missing_file_says_where_to_get_weights(tmp_path):
    with pytest.raises(WeightsError, match=r"gone\.pt: no such weights file.*radiogenomics download"):
        weights.read_weights(tmp_path / "gone.pt")


def test_weights_of_another_network_are_refused(tmp_path):
    file = tmp_path / "model.pt"
    weights.save_weights(segmenter(), {"encoder_name": "tu-test_efficientnet"}, file)
    with pytest.raises(WeightsError, match=r"model\.pt: these weights are not for this network.*tu-test_eff") as info:
        weights.load_weights(classifier(), file)
    assert "lstm" in str(info.value) or "backbone" in str(info.value)


def test_another_shape_is_refused(tmp_path):
    file = tmp_path / "model.pt"
    weights.save_weights(classifier(hidden_size=4), {}, file)
    with pytest.raises(WeightsError, match="size mismatch for lstm"):
        weights.load_weights(classifier(hidden_size=3), file)


# Settings


def test_settings_of_a_segmenter(tmp_path):
    method = {
        "architecture": "unetplusplus",
        "encoder_name": "densenet121",
        "decoder_channels": [256, 128, 64, 32, 16],
        "image_size": 224,
    }
    method |= {"scaling": "minmax", "field_of_view": None}
    assert weights.segmenter_settings(None) == method
    torch.save(segmenter().state_dict(), tmp_path / "flat.pth")
    assert weights.segmenter_settings(tmp_path / "flat.pth") == method
    weights.save_weights(segmenter(), {"encoder_name": "tu-test_efficientnet", "image_size": 64}, tmp_path / "own.pt")
    assert weights.segmenter_settings(tmp_path / "own.pt") == {
        **method, "encoder_name": "tu-test_efficientnet", "image_size": 64,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("stored", "expected"), [({}, ["T1wCE"]), ({"enhancing_on": ["T1w", "T1wCE"]}, ["T1w", "T1wCE"])]
)
def test_weights_say_where_they_mark_enhancing_tumour(tmp_path, stored, expected):
    weights.save_weights(torch.nn.Linear(1, 1), stored, tmp_path / "own.pt")
    assert weights.enhancing_on(weights.segmenter_settings(tmp_path / "own.pt")) == expected
    assert weights.enhancing_on(weights.segmenter_settings(None)) == ["T1wCE"]


@pytest.mark.parametrize("value", ["T1wCE", ["T1c"], [["T1w"]], None])
def test_where_they_mark_it_is_a_list_of_modalities(tmp_path, value):
    weights.save_weights(torch.nn.Linear(1, 1), {"enhancing_on": value}, tmp_path / "own.pt")
    with pytest.raises(weights.WeightsError, match=r"enhancing_on is .* expected a list of FLAIR, T1w, T1wCE, T2w"):
        weights.segmenter_settings(tmp_path / "own.pt")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("image_size", "x", "a whole number from 16 to 1024"),
        ("image_size", 10**6, "a whole number from 16 to 1024"),
        ("image_size", True, "a whole number from 16 to 1024"),
        ("decoder_channels", [1e9], "five whole numbers"),
        ("decoder_channels", None, "five whole numbers"),
        ("scaling", [], "minmax or window"),
        ("field_of_view", float("nan"), "None, or mm from 10 to 1000"),
        ("encoder_name", None, "a text"),
        ("architecture", "resnet18", "unetplusplus or unet"),
    ],
)
def test_settings_that_no_segmenter_has_are_refused(tmp_path, name, value, expected):
    file = tmp_path / "odd.pt"
    weights.save_weights(segmenter(), {name: value}, file)
    with pytest.raises(
        WeightsError, match=rf"odd\.pt: its setting {name} is .*, expected {expected}.*; write the file again"
    ):
        weights.segmenter_settings(file)


@pytest.mark.parametrize(("name", "value"), [("hidden_size", "x"), ("sequence_length", 10**9), ("stride", 0)])
def test_settings_that_no_classifier_has_are_refused(tmp_path, name, value):
    file = tmp_path / "odd.pt"
    weights.save_weights(classifier(), {name: value}, file)
    with pytest.raises(WeightsError, match=rf"odd\.pt: its setting {name} is .*, expected a whole number"):
        weights.classifier_settings({"FLAIR": file})


def test_a_network_that_nobody_knows_is_refused():
    with pytest.raises(UserError, match=r"no segmentation network can be built from .*'nobody'.*; use other weights"):
        build_segmenter({**weights.SEGMENTER_SETTINGS, "encoder_name": "nobody"})
    with pytest.raises(UserError, match=r"no classifier can be built from .*'nobody'.*; use other weights"):
        build_classifier({"backbone": "nobody"})


def test_settings_of_classifiers(tmp_path):
    method = {
        "backbone": "eca_nfnet_l0", "image_size": 224, "sequence_length": 35, "stride": 5, "hidden_size": 128,
    }  # fmt: skip
    assert weights.classifier_settings({}) == method
    assert weights.classifier_settings({"FLAIR": None, "T1w": None}) == method
    files = {}
    for mri_type in ("FLAIR", "T1w"):
        files[mri_type] = tmp_path / f"model_{mri_type}.pt"
        weights.save_weights(classifier(), {**SETTINGS, "mri_type": mri_type}, files[mri_type])
    assert weights.classifier_settings({**files, "T2w": None}) == SETTINGS


def test_settings_of_what_training_wrote_agree_whatever_the_epoch(tmp_path):
    files = {}
    for epoch, mri_type in enumerate(("FLAIR", "T1w")):
        files[mri_type] = tmp_path / f"model_{mri_type}.pt"
        trained = {"epoch": epoch, "auc": 0.5 + epoch / 10}
        weights.save_weights(classifier(), {**SETTINGS, "mri_type": mri_type, "trained": trained}, files[mri_type])
    found = weights.classifier_settings(files)
    assert {key: found[key] for key in SETTINGS} == SETTINGS


def test_a_file_for_all_modalities_is_read_once(tmp_path, monkeypatch):
    file = tmp_path / "model.pt"
    weights.save_weights(classifier(), SETTINGS, file)
    read, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda place, **rest: read.append(place) or load(place, **rest))
    assert weights.classifier_settings(dict.fromkeys(("FLAIR", "T1w", "T1wCE", "T2w"), file)) == SETTINGS
    assert read == [file]


@pytest.mark.parametrize(("hidden", "length"), [(64, 35), (128, 35), (3, 7)])
def test_a_flat_classifier_shows_its_size_by_its_shapes(tmp_path, hidden, length):
    network = classifier(hidden_size=hidden, sequence_length=length)
    torch.save(network.state_dict(), tmp_path / "flat.pth")
    found = weights.classifier_settings({"FLAIR": tmp_path / "flat.pth"})
    assert (found["hidden_size"], found["sequence_length"]) == (hidden, length)
    assert found["backbone"] == "eca_nfnet_l0"


def test_classifiers_of_different_kinds_are_refused(tmp_path):
    files = {"FLAIR": tmp_path / "a.pt", "T1w": tmp_path / "b.pt"}
    weights.save_weights(classifier(), SETTINGS, files["FLAIR"])
    weights.save_weights(classifier(), {**SETTINGS, "image_size": 64}, files["T1w"])
    with pytest.raises(WeightsError, match=r"b\.pt was made with .*64.*a\.pt with .*32.*one kind for all modalities"):
        weights.classifier_settings(files)


# Finding


def test_segmenter_own_before_released(tmp_path):
    assert weights.find_segmenter(None, tmp_path) is None
    released = touch(tmp_path / "released" / "Fold0_densenet121_2d_segment.pth")
    assert weights.find_segmenter(None, tmp_path) == released
    own = touch(tmp_path / "segmentation.pt")
    assert weights.find_segmenter(None, tmp_path) == own
    named = touch(tmp_path / "elsewhere" / "mine.pt")
    assert weights.find_segmenter(named, tmp_path) == named


def test_shipped_segmenter_after_all_others_and_each_by_its_name(tmp_path):
    shipped = tmp_path / "segmentation.pt"
    with pytest.raises(
        WeightsError, match=r"segmentation\.pt: no weights .* synthetic brains; make them with .*pretrain"
    ):
        weights.find_segmenter("synthetic", tmp_path)
    weights.save_weights(segmenter(), {"trained_on": weights.TRAINED_ON_SYNTHETIC, "scaling": "window"}, shipped)
    assert weights.is_synthetic(shipped)
    assert weights.find_segmenter(None, tmp_path) == weights.find_segmenter("synthetic", tmp_path) == str(shipped)
    with pytest.raises(WeightsError, match=r"Fold0_densenet121.*no such weights file; .*radiogenomics download"):
        weights.find_segmenter("released", tmp_path)
    released = touch(tmp_path / "released" / "Fold0_densenet121_2d_segment.pth")
    assert weights.find_segmenter(None, tmp_path) == weights.find_segmenter("released", tmp_path) == released
    assert weights.find_segmenter("synthetic", tmp_path) == str(shipped)
    weights.save_weights(segmenter(), {}, shipped)  # one's own are put in their place
    assert weights.find_segmenter(None, tmp_path) == str(shipped)
    with pytest.raises(WeightsError, match="no weights that were trained on synthetic brains"):
        weights.find_segmenter("synthetic", tmp_path)


def test_training_starts_from_the_shipped_weights_and_their_scaling(tmp_path):
    trained = segmenter()
    settings = {"trained_on": weights.TRAINED_ON_SYNTHETIC, "scaling": "window"}
    weights.save_weights(trained, settings, tmp_path / "segmentation.pt", half=True)
    assert weights.start_settings("synthetic", tmp_path) == settings
    assert weights.start_settings(tmp_path / "segmentation.pt", tmp_path) == settings
    assert weights.start_settings("imagenet", tmp_path) == weights.start_settings("none", tmp_path) == {}
    found = weights.initialise(segmenter(), "synthetic", tmp_path).state_dict()
    for name, value in trained.state_dict().items():
        assert found[name].dtype == value.dtype
        torch.testing.assert_close(found[name], value.half().to(value.dtype) if value.is_floating_point() else value)
    with pytest.raises(WeightsError, match="--init synthetic: there are no such weights for this network"):
        weights.initialise(segmenter(), "synthetic")


def test_half_precision_takes_half_the_space(tmp_path):
    network = segmenter()
    for name, half in (("whole", False), ("half", True)):
        weights.save_weights(network, {"image_size": 64}, tmp_path / name, half)
    assert (tmp_path / "half").stat().st_size < 0.6 * (tmp_path / "whole").stat().st_size
    state, settings = weights.read_weights(tmp_path / "half")
    assert settings == {"image_size": 64}
    assert {value.dtype for value in state.values()} == {torch.float16, torch.int64}
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32, torch.int64}


def test_synthetic_weights_are_announced_as_such(tmp_path, caplog):
    caplog.set_level("INFO")
    file = tmp_path / "segmentation.pt"
    weights.save_weights(segmenter(), {"trained_on": weights.TRAINED_ON_SYNTHETIC}, file)
    weights.announce(str(file))
    assert "trained on synthetic brains alone" in caplog.text
    assert "classifier" not in caplog.text
    caplog.clear()
    weights.save_weights(segmenter(), {}, file)
    weights.announce(str(file), {"FLAIR": None})
    assert "trained on synthetic brains" not in caplog.text
    assert "FLAIR classifier weights: none" in caplog.text


def test_what_weights_say_of_themselves_is_shown_when_they_are_used(tmp_path, caplog):
    caplog.set_level("INFO")
    file = tmp_path / "segmentation.pt"
    weights.save_weights(segmenter(), {"note": "made of cheese"}, file)
    weights.announce(str(file))
    assert "made of cheese" in caplog.messages
    shipped = weights.find_segmenter(None, Path(weights.__file__).parents[1] / "models")
    caplog.clear()
    weights.announce(str(shipped))
    assert any("shipped" in message and "segmentation_weights.md" in message for message in caplog.messages)


def test_segmenter_that_is_named_but_not_there(tmp_path):
    touch(tmp_path / "segmentation.pt")
    with pytest.raises(WeightsError, match=r"gone\.pt: no such weights file.*radiogenomics"):
        weights.find_segmenter(tmp_path / "gone.pt", tmp_path)


def test_classifiers_own_before_released(tmp_path):
    released = {
        mri_type: touch(tmp_path / "released" / f"{mri_type}_Fold0_eca_nfnet_l0_2d_classification.pth")
        for mri_type in ("FLAIR", "T1wCE", "T2w")
    }
    own = touch(tmp_path / "model_FLAIR.pt")
    found = weights.find_classifiers(None, tmp_path)
    assert found == {"FLAIR": own, "T1w": None, "T1wCE": released["T1wCE"], "T2w": released["T2w"]}
    assert list(weights.find_classifiers(None, tmp_path, ["T2w", "FLAIR"])) == ["T2w", "FLAIR"]


def test_the_bundles_model_is_the_classifier_of_flair_unless_there_is_another(tmp_path):
    """As the whole bundle's large files have it, so that it is downloaded once, under the name that the model zoo looks for."""
    file = tmp_path / "model.pt"
    for content in (classifier().state_dict(), {"model": classifier().state_dict(), "settings": SETTINGS}):
        torch.save(content, file)
        assert weights.find_classifiers(None, tmp_path) == {"FLAIR": str(file), "T1w": None, "T1wCE": None, "T2w": None}
    assert weights.find_classifiers(None, tmp_path, ["T1w"]) == {"T1w": None}
    released = touch(tmp_path / "released" / "FLAIR_Fold0_eca_nfnet_l0_2d_classification.pth")
    assert weights.find_classifiers(None, tmp_path, ["FLAIR"]) == {"FLAIR": released}
    own = touch(tmp_path / "model_FLAIR.pt")
    assert weights.find_classifiers(None, tmp_path, ["FLAIR"]) == {"FLAIR": own}
    with pytest.raises(WeightsError, match="holds no model_<mri_type>"):
        weights.find_classifiers(tmp_path, tmp_path / "models", ["T2w"])


def test_the_bundles_model_is_the_segmenter_or_the_classifier_never_both(tmp_path):
    file = tmp_path / "model.pt"
    weights.save_weights(segmenter(), {}, file)
    assert weights.find_segmenter(None, tmp_path) == str(file)
    assert weights.find_classifiers(None, tmp_path, ["FLAIR"]) == {"FLAIR": None}
    torch.save(classifier().state_dict(), file)
    assert weights.find_segmenter(None, tmp_path) is None
    released = touch(tmp_path / "released" / "Fold0_densenet121_2d_segment.pth")
    assert weights.find_segmenter(None, tmp_path) == released
    shipped = tmp_path / "segmentation.pt"
    weights.save_weights(segmenter(), {"trained_on": weights.TRAINED_ON_SYNTHETIC}, shipped)
    assert weights.find_segmenter(None, tmp_path) == released
    Path(released).unlink()
    assert weights.find_segmenter(None, tmp_path) == str(shipped)


def test_the_bundles_model_is_read_only_where_there_is_no_other(tmp_path):
    (tmp_path / "model.pt").write_text("<!DOCTYPE html>")  # what a failed download leaves
    for find in (weights.find_segmenter, weights.find_classifiers):
        with pytest.raises(WeightsError, match=r"model\.pt: not a weights file .* download or copy it again"):
            find(None, tmp_path)
    own = {name: touch(tmp_path / name) for name in ("segmentation.pt", "model_FLAIR.pt")}
    assert weights.find_segmenter(None, tmp_path) == own["segmentation.pt"]
    assert weights.find_classifiers(None, tmp_path)["FLAIR"] == own["model_FLAIR.pt"]
    assert weights.find_classifiers(None, tmp_path, ["T1w"]) == {"T1w": None}


def test_one_classifier_for_all(tmp_path):
    file = touch(tmp_path / "any.pt")
    assert weights.find_classifiers(file, tmp_path / "none", ["T1w", "T2w"]) == {"T1w": file, "T2w": file}


def test_folder_of_classifiers(tmp_path):
    here = touch(tmp_path / "runs" / "model_FLAIR.pt")
    touch(tmp_path / "runs" / "FLAIR" / "model_FLAIR.pt")
    below = touch(tmp_path / "runs" / "T1wCE" / "model_T1wCE.pt")
    touch(tmp_path / "runs" / "deep" / "deeper" / "model_T2w.pt")
    touch(tmp_path / "models" / "model_T1w.pt")
    found = weights.find_classifiers(tmp_path / "runs", tmp_path / "models")
    assert found == {"FLAIR": here, "T1w": None, "T1wCE": below, "T2w": None}


def test_members_of_a_crossvalidation(tmp_path):
    runs = tmp_path / "cv" / "classification"
    files = [
        [touch(runs / "seed67" / f"fold{fold}" / name / f"model_{name}.pt") for name in ("FLAIR", "T1wCE")]
        for fold in range(2)
    ]
    members = weights.find_members(tmp_path / "cv", tmp_path)
    assert weights.by_modality(members) == {
        "FLAIR": [one[0] for one in files], "T1w": None, "T1wCE": [one[1] for one in files], "T2w": None,
    }  # fmt: skip
    Path(files[1][1]).unlink()
    with pytest.raises(WeightsError, match=r"fold1: has no weights for T1wCE, as .*fold0 has; finish"):
        weights.find_members(tmp_path / "cv", tmp_path)


def test_other_classifiers_are_one_member(tmp_path):
    file = touch(tmp_path / "any.pt")
    assert weights.find_members(file, tmp_path, ["T1w"]) == [{"T1w": file}]
    assert weights.by_modality([{"T1w": file}]) == {"T1w": file}
    assert weights.find_members(None, tmp_path, ["T1w"]) == [{"T1w": None}]


def test_folder_without_classifiers(tmp_path):
    with pytest.raises(WeightsError, match=r"holds no model_<mri_type>\.pt for T1w; train one with .*--mri_types T1w"):
        weights.find_classifiers(tmp_path, tmp_path, ["T1w"])
    with pytest.raises(WeightsError, match="nowhere: no such file or folder"):
        weights.find_classifiers(tmp_path / "nowhere", tmp_path)


def test_classifiers_may_be_required(tmp_path):
    assert weights.find_classifiers(None, tmp_path, ["T1w"]) == {"T1w": None}
    with pytest.raises(WeightsError, match=r"no weights for the classification of T1w, T2w: train your own"):
        weights.find_members(None, tmp_path, ["T1w", "T2w"], required=True)


@pytest.mark.parametrize("mri_types", [["T1"], ["FLAIR", "PD"], []])
def test_unknown_modality(tmp_path, mri_types):
    with pytest.raises(ValueError, match="expected some of FLAIR,T1w,T1wCE,T2w"):
        weights.find_classifiers(None, tmp_path, mri_types)


def test_load_classifiers_gives_each_its_own(tmp_path):
    files = {}
    for seed, mri_type in enumerate(("FLAIR", "T1w")):
        files[mri_type] = tmp_path / f"{mri_type}.pt"
        weights.save_weights(classifier(seed), SETTINGS, files[mri_type])
    found = weights.load_classifiers(classifier(9), {**files, "T2w": None})
    assert set(found) == {"FLAIR", "T1w"}
    assert same(found["FLAIR"], classifier(0))
    assert same(found["T1w"], classifier(1))


def test_announce_names_files_and_what_is_missing(caplog):
    with caplog.at_level("INFO"):
        weights.announce("seg.pt", {"FLAIR": "flair.pt", "T1w": None})
    assert "seg.pt" in caplog.text
    assert "flair.pt" in caplog.text
    assert [record.levelname for record in caplog.records if "radiogenomics download" in record.message] == ["WARNING"]


def test_require():
    assert weights.require("a.pt", "segmentation") == "a.pt"
    with pytest.raises(WeightsError, match=r"no weights for segmentation: .*radiogenomics train"):
        weights.require(None, "segmentation")


def test_checksum_follows_the_bytes(tmp_path):
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / name).write_bytes(content)
    assert weights.sha256(tmp_path / "a") == weights.sha256(tmp_path / "b") != weights.sha256(tmp_path / "c")
    assert weights.sha256(None) is None
    found = weights.checksums({"FLAIR": tmp_path / "a", "T1w": tmp_path / "c", "T2w": None})
    assert found == {"FLAIR": weights.sha256(tmp_path / "a"), "T1w": weights.sha256(tmp_path / "c"), "T2w": None}


# Start weights


def test_initialise_none_changes_nothing():
    network = classifier(1)
    assert weights.initialise(network, "none") is network
    assert same(network, classifier(1))


@pytest.mark.parametrize("make", [classifier, segmenter])
def test_initialise_with_the_whole_network(tmp_path, make):
    weights.save_weights(make(1), {}, tmp_path / "whole.pt")
    torch.save(make(2).state_dict(), tmp_path / "flat.pth")
    assert same(weights.initialise(make(3), tmp_path / "whole.pt"), make(1))
    assert same(weights.initialise(make(3), tmp_path / "flat.pth"), make(2))


def test_initialise_backbone_with_its_imagenet_file(tmp_path):
    torch.manual_seed(5)
    imagenet = timm.create_model("resnet10t", pretrained=False)
    assert any(key.startswith("fc.") for key in imagenet.state_dict())
    torch.save(imagenet.state_dict(), tmp_path / "resnet10t.pth")
    network, before = classifier(1, backbone="resnet10t"), classifier(1, backbone="resnet10t")
    weights.initialise(network, tmp_path / "resnet10t.pth")
    torch.testing.assert_close(network.backbone.conv1[0].weight, imagenet.conv1[0].weight)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        expected = imagenet.eval().forward_head(imagenet.forward_features(images), pre_logits=True)
        torch.testing.assert_close(network.eval().encode(images), expected)
    assert torch.equal(network.clf_head.weight, before.clf_head.weight)


@pytest.mark.slow
def test_initialise_nfnet_with_its_imagenet_file(tmp_path):
    """The released ``eca_nfnet_l0.pth`` has the classification layer of ImageNet."""
    imagenet = timm.create_model("eca_nfnet_l0", pretrained=False)
    assert imagenet.state_dict()["head.fc.weight"].shape == (1000, 2304)
    torch.save(imagenet.state_dict(), tmp_path / "eca_nfnet_l0.pth")
    network = weights.initialise(BiLSTMNFNet(), tmp_path / "eca_nfnet_l0.pth")
    state = network.backbone.state_dict()
    assert all(torch.equal(value, imagenet.state_dict()[key]) for key, value in state.items())


def test_initialise_encoder_alone(tmp_path):
    other = segmenter(1)
    torch.save(other.encoder.state_dict(), tmp_path / "encoder.pth")
    network = weights.initialise(segmenter(2), tmp_path / "encoder.pth")
    assert same(network.encoder, other.encoder)
    assert same(network.decoder, segmenter(2).decoder)


def test_initialise_with_a_file_of_something_else(tmp_path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(
        WeightsError, match=r"linear\.pth: holds neither this network's weights nor its backbone's: missing"
    ):
        weights.initialise(classifier(), tmp_path / "linear.pth")
    with pytest.raises(WeightsError, match="no such weights file"):
        weights.initialise(classifier(), tmp_path / "gone.pth")


def test_initialise_imagenet_from_the_hub(monkeypatch):
    """The hub is stood in for by a network with known random weights."""
    wanted = {}
    hub, network = classifier(7), classifier(1)

    def create_model(name, pretrained=False, **kwargs):
        wanted.update(name=name, pretrained=pretrained)
        return hub.backbone

    monkeypatch.setattr(timm, "create_model", create_model)
    weights.initialise(network, "imagenet")
    assert wanted == {"name": TINY, "pretrained": True}
    assert same(network.backbone, hub.backbone)
    assert not same(network.lstm, hub.lstm)


@pytest.mark.parametrize("make", [classifier, segmenter])
def test_hub_out_of_reach(monkeypatch, make):
    network = make(1)

    def fail(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", fail)
    monkeypatch.setattr(smp.encoders, "get_encoder", fail)
    with pytest.raises(UserError, match=r"ImageNet weights of .*test_efficientnet.*no route to host") as info:
        weights.initialise(network, "imagenet")
    assert "--init FILE" in str(info.value)
    assert "--init none" in str(info.value)


def test_numbers_are_read_once_and_a_file_that_changed_is_described_anew(tmp_path, monkeypatch):
    models = tmp_path / "models"
    weights.save_weights(segmenter(1), {"scaling": "window"}, models / "segmentation.pt")
    opened = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda file, **options: opened.append(options["mmap"]) or load(file, **options))
    file = weights.find_segmenter(None, models)
    assert weights.segmenter_settings(file)["scaling"] == "window"
    weights.announce(file)
    assert opened == [True]  # to describe it; nothing but names is read then
    weights.load_weights(segmenter(2), file)
    assert opened == [True, True]
    weights.save_weights(segmenter(1), {"scaling": "minmax", "note": "another"}, models / "segmentation.pt")
    assert weights.segmenter_settings(file)["scaling"] == "minmax"


@pytest.mark.slow
def test_a_file_may_be_written_over_while_its_weights_are_used(tmp_path):
    """A process that looks at a mapped file which became shorter is killed by the system."""
    file = tmp_path / "weights.pt"
    code = (
        "import sys; from scripts.weights import read_weights; state, _ = read_weights(sys.argv[1]); "
        "open(sys.argv[1], 'w').close(); print(sum(float(value.sum()) for value in state.values()))"
    )
    weights.save_weights(classifier(0), SETTINGS, file)
    env = {**os.environ, "PYTHONPATH": str(Path(weights.__file__).parents[1])}
    done = subprocess.run(
        [*python_words(), "-c", code, str(file)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_weights_file_is_the_same_wherever_it_is_written(tmp_path):
    files = [tmp_path / "model.pt", tmp_path / "elsewhere" / "other.pt"]
    for file in files:
        torch.manual_seed(0)
        weights.save_weights(torch.nn.Linear(2, 1), {"a": 1}, file)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert platform.node().encode() not in zipfile.ZipFile(files[0]).namelist()[0].encode()
