"""Weights of networks: choice of files, their settings, loading, writing, and initialisation from ImageNet or a file.

See :mod:`scripts.model_files` for the file format. A flat one has the method's own settings.
"""

from __future__ import annotations

import copy
import logging
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .checks import GET_WEIGHTS, some_of
from .files import written_whole
from .modalities import ENHANCING_ON, MRI_TYPES
from .model_files import (
    TRAINED_ON_SYNTHETIC,
    WeightsError,
    describe,
    is_synthetic,
    known_settings,
    read_weights,
    sha256,
)
from .networks import check_settings, imagenet_state

logger = logging.getLogger(__name__)

SEGMENTER_SETTINGS: dict[str, Any] = {
    "architecture": "unetplusplus",
    "encoder_name": "densenet121",
    "decoder_channels": [256, 128, 64, 32, 16],
    "image_size": 224,
    "scaling": "minmax",
    "field_of_view": None,
}
CLASSIFIER_SETTINGS: dict[str, Any] = {
    "backbone": "eca_nfnet_l0",
    "image_size": 224,
    "sequence_length": 35,
    "stride": 5,
    "hidden_size": 128,
}
RELEASED_SEGMENTER = "Fold0_densenet121_2d_segment.pth"
BUNDLE_WEIGHTS = "model.pt"
"""The model zoo's name for a bundle's weights: the segmenter in the segmentation bundle, else the released FLAIR classifier."""
OWN_SEGMENTER = "segmentation.pt"
"""The shipped weights, or the user's own in their place; if trained only on synthetic brains, their settings record it."""
SYNTHETIC = "synthetic"
RELEASED = "released"
RELEASED_CLASSIFIER = "{mri_type}_Fold0_eca_nfnet_l0_2d_classification.pth"


def load_weights(network: nn.Module, file: str | Path) -> nn.Module:
    """Load a weights file strictly into a network; returns the network.

    Raises:
        WeightsError: when keys or shapes differ, naming the first few.
    """
    state, settings = read_weights(file)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        made = f" (according to the file it was made with {settings})" if settings else ""
        differences = [textwrap.shorten(line, 200, placeholder=" …") for line in str(error).splitlines()[1:4]]
        raise WeightsError(
            f"{file}: these weights are not for this network{made}: {' '.join(differences)} Use weights that were trained with it"
        ) from error
    return network


def segmenter_settings(file: str | Path | None) -> dict[str, Any]:
    """Settings of the segmentation network in a weights file; the method's own without a file or in a flat one."""
    settings = {**SEGMENTER_SETTINGS, **(describe(file).settings if file else {})}
    check_settings(settings, file)
    enhancing_on(settings)  # an error must not surface after hours of segmentation
    return settings


def enhancing_on(settings: Mapping[str, Any]) -> list[str]:
    """The modalities in which enhancing tumour is claimed: ``enhancing_on`` of a segmenter's settings, else those with contrast agent.

    Raises:
        WeightsError: when it is not a list of modalities.
    """
    names = settings.get("enhancing_on", list(ENHANCING_ON))
    if not isinstance(names, (list, tuple)) or not all(name in MRI_TYPES for name in names):
        raise WeightsError(
            f"the segmentation weights' setting enhancing_on is {names!r}, expected a list of {', '.join(MRI_TYPES)}; write the "
            "weights file with such a list, or without it"
        )
    return list(names)


def classifier_settings(files: Mapping[str, str | Path | None]) -> dict[str, Any]:
    """The settings that all the classifiers of a study share, from their files by modality (None where one has none).

    Raises:
        WeightsError: when two files were made with different settings.
    """
    found = {file: _classifier_settings(file) for file in files.values() if file}
    for file, settings in found.items():
        first = next(iter(found))
        if settings != found[first]:
            raise WeightsError(
                f"{file} was made with {settings}, but {first} with {found[first]}; give weights of one kind for all modalities"
            )
    return next(iter(found.values()), dict(CLASSIFIER_SETTINGS))


def _classifier_settings(file: str | Path) -> dict[str, Any]:
    model = describe(file)
    if other := model.settings.get("model"):
        raise WeightsError(
            f"{file}: holds weights of {other}, expected those of the two-stage method; select that model (--model {other}), or give other weights"
        )
    settings = {**CLASSIFIER_SETTINGS, **model.settings}
    for own in ("mri_type", "trained"):  # what differs from file to file
        settings.pop(own, None)
    check_settings(settings, file)
    if not model.settings and "lstm.weight_hh_l0" in model.shapes:  # the shapes in a flat file show its LSTM
        settings["hidden_size"] = model.shapes["lstm.weight_hh_l0"][1]
        settings["sequence_length"] = model.shapes["clf_head.weight"][1] // (2 * settings["hidden_size"])
    return settings


def find_segmenter(segmenter: str | Path | None, models: str | Path) -> str | None:
    """The segmentation weights to use: the requested ones, else the shipped or the user's own, else the released, else synthetic ones, else None.

    Args:
        segmenter: a file; ``"synthetic"``, those in ``models`` trained only on synthetic brains; ``"released"``, those of
            the method's authors; or None to look in ``models``.
        models: the bundle's folder of weights.

    Raises:
        WeightsError: when the requested weights are missing, or ``model.pt`` can't be read.
    """
    own, bundled = Path(models) / OWN_SEGMENTER, Path(models) / BUNDLE_WEIGHTS
    released = Path(models) / "released" / RELEASED_SEGMENTER
    synthetic = own.is_file() and is_synthetic(own)
    if segmenter is None:
        if own.is_file() and not synthetic:
            return str(own)
        if bundled.is_file() and not describe(bundled).is_classifier:
            return str(bundled)
        return str(released) if released.is_file() else str(own) if synthetic else None
    if str(segmenter) == SYNTHETIC and not synthetic:
        raise WeightsError(
            f"{own}: no weights that were trained on synthetic brains; make them with `radiogenomics pretrain` and copy them there"
        )
    file = {SYNTHETIC: own, RELEASED: released}.get(str(segmenter), Path(segmenter))
    if not file.is_file():
        remedy = "fetch it with `radiogenomics download`" if file == released else GET_WEIGHTS
        raise WeightsError(f"{file}: no such weights file; {remedy}")
    return str(file)


def start_settings(init: str | Path, models: str | Path) -> dict[str, Any]:
    """Settings of the weights that a training starts from (see :func:`initialise`); empty where there are none."""
    file = _start_file(init, models)
    return describe(file).settings if file else {}


def _start_file(init: str | Path, models: str | Path | None) -> str | None:
    """The file that ``init`` names; None for ``imagenet`` and ``none``."""
    if str(init) in ("imagenet", "none"):
        return None
    if str(init) == SYNTHETIC:
        if models is None:
            raise WeightsError(
                "--init synthetic: there are no such weights for this network; expected imagenet, none or a file"
            )
        return find_segmenter(SYNTHETIC, models)
    return str(init)


def find_classifiers(
    classifier: str | Path | None,
    models: str | Path,
    mri_types: Sequence[str] = MRI_TYPES,
) -> dict[str, str | None]:
    """Classifier weights by modality.

    Args:
        classifier: one file for all modalities, a folder with ``model_<mri_type>.pt`` in it or one level below, or None
            to look in ``models`` and then among the released weights, whose FLAIR file is ``model.pt`` in ``models``.
        models: the bundle's folder of weights.
        mri_types: modalities wanted.

    Raises:
        WeightsError: when a file or folder was named and no modality has weights; when ``model.pt`` can't be read.
        ValueError: when a modality has an unknown name.
    """
    some_of(MRI_TYPES)("mri_types", list(mri_types))
    if classifier and Path(classifier).is_file():
        return {mri_type: str(classifier) for mri_type in mri_types}
    if classifier and not Path(classifier).is_dir():
        raise WeightsError(f"{classifier}: no such file or folder of classifier weights; {GET_WEIGHTS}")
    found: dict[str, str | None] = {}
    for mri_type in mri_types:
        name = f"model_{mri_type}.pt"
        if classifier:
            places = [Path(classifier) / name, *sorted(Path(classifier).glob(f"*/{name}"))]
        else:
            released = RELEASED_CLASSIFIER.format(mri_type=mri_type)
            places = [Path(models) / name, Path(models) / "released" / released]
            if mri_type == "FLAIR":
                places.append(Path(models) / BUNDLE_WEIGHTS)
        there = (place for place in places if place.is_file())
        found[mri_type] = next(
            (str(place) for place in there if place.name != BUNDLE_WEIGHTS or describe(place).is_classifier), None
        )
    if classifier and not any(found.values()):
        raise WeightsError(
            f"{classifier}: holds no model_<mri_type>.pt for {', '.join(mri_types)}; train one with "
            f"`radiogenomics train classification --mri_types {','.join(mri_types)}`"
        )
    return found


def find_members(
    classifier: str | Path | None,
    models: str | Path,
    mri_types: Sequence[str] = MRI_TYPES,
    required: bool = False,
) -> list[dict[str, str | None]]:
    """Classifier weights by modality of each member of an ensemble: those of all folds and seeds of a cross-validation.

    Args are those of :func:`find_classifiers`; its ``classifier`` is one member.

    Raises:
        WeightsError: as :func:`find_classifiers`, when members lack modalities that others have, or when weights are ``required``
            and no modality has any.
    """
    runs = sorted(Path(classifier).glob("classification/seed*/fold*")) if classifier else []
    if not runs:
        found = find_classifiers(classifier, models, mri_types)
        if required and not any(found.values()):
            require(None, f"the classification of {', '.join(mri_types)}")
        return [found]
    members = [find_classifiers(run, models, mri_types) for run in runs]
    for run, member in zip(runs, members, strict=True):
        lacking = [name for name, file in members[0].items() if file and not member[name]]
        if lacking:
            raise WeightsError(
                f"{run}: has no weights for {', '.join(lacking)}, as {runs[0]} has; finish the cross-validation"
            )
    return members


def by_modality(members: Sequence[Mapping[str, str | None]]) -> dict[str, Any]:
    """The files of the members: of one by modality, of several a list by modality; None without any."""
    if len(members) == 1:
        return dict(members[0])
    return {name: [member[name] for member in members] if members[0][name] else None for name in members[0]}


def classified(files: Mapping[str, Any]) -> list[str]:
    """The modalities that have a classifier, of files by modality."""
    return [name for name, file in files.items() if file]


def member_settings(members: Sequence[Mapping[str, str | None]]) -> dict[str, Any]:
    """:func:`classifier_settings` of all members together."""
    return classifier_settings({f"{name} {i}": file for i, one in enumerate(members) for name, file in one.items()})


def load_members(network: nn.Module, members: Sequence[Mapping[str, str | None]]) -> nn.ModuleDict:
    """The classifier of each modality, of several members a ``ModuleList`` of them."""
    loaded = [load_classifiers(network, member) for member in members]
    if len(loaded) == 1:
        return loaded[0]
    return nn.ModuleDict({name: nn.ModuleList(member[name] for member in loaded) for name in loaded[0]})


def load_classifiers(network: nn.Module, files: Mapping[str, str | Path | None]) -> nn.ModuleDict:
    """A copy of a classifier with the weights of its file for each modality that has one, the same for the same file."""
    needed = [file for file in files.values() if file]
    loaded = {file: load_weights(copy.deepcopy(network), file) for file in dict.fromkeys(needed)}
    return nn.ModuleDict({mri_type: loaded[file] for mri_type, file in files.items() if file})


def announce(segmenter: str, classifiers: Mapping[str, Any] | None = None) -> None:
    """Log which weights are used, those of classifiers from :func:`by_modality`, and where to get missing ones."""
    logger.info("segmentation weights: %s", segmenter)
    known = known_settings(segmenter)
    if known.get("note"):
        logger.info("%s", known["note"])
    if known.get("trained_on") == TRAINED_ON_SYNTHETIC:
        logger.info(
            "these were trained on synthetic brains alone, not on patients: look at every mask. To use others: --segmenter FILE, or "
            "`radiogenomics download` and --segmenter released"
        )
    if classifiers is None:
        return
    for mri_type, file in classifiers.items():
        files = f"{len(file)} members from {file[0]} to {file[-1]}" if isinstance(file, list) else file or "none"
        logger.info("%s classifier weights: %s", mri_type, files)
    if not all(classifiers.values()):
        logger.warning("for the modalities without classifier weights: %s", GET_WEIGHTS)


def require(file: str | None, what: str) -> str:
    """The file, or a WeightsError that says where to get ``what``."""
    if file is None:
        raise WeightsError(f"no weights for {what}: {GET_WEIGHTS}")
    return file


def checksums(files: Mapping[str, Any]) -> dict[str, Any]:
    """:func:`sha256` by modality, of each file once; of several files of a modality a list."""
    return {name: list(map(sha256, file)) if isinstance(file, list) else sha256(file) for name, file in files.items()}


def save_weights(network: nn.Module, settings: Mapping[str, Any], file: str | Path, half: bool = False) -> None:
    """Write ``{"model", "settings"}`` to ``file``, whole or not at all; with ``half`` as float16."""
    state = network.state_dict()
    if half:
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    with written_whole(file) as temporary, open(temporary, "wb") as stream:  # a path would be stored in the file
        torch.save({"model": state, "settings": dict(settings)}, stream)


def initialise(network: nn.Module, init: str | Path = "imagenet", models: str | Path | None = None) -> nn.Module:
    """Give the ``encoder`` of a segmenter or the ``backbone`` of a classifier its start weights; returns the network.

    Args:
        network: changed in place.
        init: ``"imagenet"`` (from a hub), ``"none"`` (stays random), ``"synthetic"`` (segmentation weights that were trained on
            synthetic brains), or a file: weights of the whole network or of its encoder or backbone alone.
        models: the bundle's folder of weights, where synthetic ones are.

    Raises:
        UserError: when ImageNet weights can't be reached, or a file does not fit.
    """
    if str(init) == "none":
        return network
    part_name = "encoder" if hasattr(network, "encoder") else "backbone"
    part = getattr(network, part_name)
    if str(init) == "imagenet":
        part.load_state_dict(imagenet_state(network))
        return network
    file = str(_start_file(init, models))
    state, _ = read_weights(file)
    if any(key.startswith(f"{part_name}.") for key in state):
        return load_weights(network, file)
    heads = ("head.fc.", "fc.", "classifier.")  # the ImageNet classification layer of a backbone's own file
    missing, unexpected = part.load_state_dict(
        {key: value for key, value in state.items() if not key.startswith(heads)}, strict=False
    )
    if missing or unexpected:
        raise WeightsError(
            f"{file}: holds neither this network's weights nor its {part_name}'s: "
            f"missing {missing[:3]}, unexpected {unexpected[:3]}"
        )
    return network
