"""The brain's mask in each series of a patient, by deepbet, another program, or existing masks.

deepbet sees the best series; its mask is transferred to the others after rigid registration, because the patient may have moved
between them. The result is compared with the coarse mask that each series gives by itself, and replaced where the two disagree.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from custom_transforms.skull import shown

from .. import memory
from ..checks import brain
from ..errors import UserError, some
from . import deepbet, programs, registration
from .grids import as_stored, canonical, carried, centre, dice, filled, largest_piece, millilitres, steady
from .own_masks import own_mask
from .registration import RigidTransform

logger = logging.getLogger(__name__)

BEST_FIRST = ("T1w", "T1wCE", "FLAIR", "T2w")
"""Which series deepbet sees: it was trained on T1w."""
VOLUME = (900.0, 2000.0)  # ml, of a brain that is covered wholly
SMALLEST_PART = 50.0  # ml, of a brain that is covered in part
CUT = 15.0  # cm² of brain on a face of the volume: more, and the brain goes on beyond it; a spinal cord has less
LARGEST_PART = 0.9  # least share of a mask in its largest piece, before the others are dropped
INSIDE = 0.95  # least share of a mask within what the slices show
COVERED = 0.7  # of the volume found in the best covered series: a series with less is no reference
AGREEMENT = 0.9  # Dice of a transferred mask with the series' own coarse one, from which on the transferred one is used
LEAST_AGREEMENT = 0.6  # the same, where two registrations put the brain
SAME_PLACE = 2.0  # mm apart at most

Series = tuple[np.ndarray, np.ndarray]
"""A volume ``(X, Y, Z)`` and its 4 x 4 affine, voxel index to RAS mm."""


@dataclass(frozen=True)
class BrainMask:
    """The brain in a series.

    Attributes:
        mask: ``(X, Y, Z)`` bool, on the grid of the series as it is stored.
        source: its origin, as part of a sentence.
        volume: ml.
        transform: from here to the series that the mask was transferred from; None where it was not transferred.
        warnings: remarks on it.
    """

    mask: np.ndarray
    source: str
    volume: float
    transform: RigidTransform | None = None
    warnings: tuple[str, ...] = field(default=())


def method_for(method: str, what: str = "") -> str:
    """The method of brain extraction: the requested one, or for ``auto`` the first installed of deepbet, HD-BET and SynthStrip.

    Args:
        method: one of :data:`~scripts.checks.BRAIN_METHODS` or a folder.
        what: names patient and series in errors.

    Raises:
        UserError: when it is none of these, or not installed.
    """
    if method == "auto":
        if deepbet.is_installed():
            return "deepbet"
        found = [name for name in programs.COMMANDS if programs.is_installed(name)]
        if found:
            return found[0]
        raise UserError(_no_way(what))
    if method == "deepbet" and not deepbet.is_installed():
        raise UserError(_no_way(what))
    check_method(method)
    return method


def check_method(method: str) -> None:
    """Refuse a value that is neither one of :data:`~scripts.checks.BRAIN_METHODS` nor a folder."""
    brain("brain", method)


def extract_brain(
    series: Mapping[str, Series], method: str = "auto", patient: str = "", threads: int | None = None
) -> dict[str, BrainMask | UserError]:
    """Find the brain in series that show the head.

    Args:
        series: of one patient, by modality; those that :func:`custom_transforms.has_skull` finds to be stripped are left out by the
            caller.
        method: one of :data:`~scripts.checks.BRAIN_METHODS` or a folder of masks, see :func:`~scripts.brain.own_masks.own_mask`.
        patient: as the data list names the patient.
        threads: that search several series at once; those of PyTorch by default. The masks do not depend on it.

    Returns:
        by modality the mask, or the reason for its absence, for the user; nothing for ``never``.

    Raises:
        UserError: when no method is available, or deepbet found the brain in no series; the message names patient, series and
            remedy.
    """
    chosen = method_for(method, f"patient {patient}: {some(series)}")
    if chosen == "never" or not series:
        return {}
    if chosen == "deepbet":
        found = _by_deepbet(series, patient, threads or torch.get_num_threads())
    else:
        found = {
            mri_type: _answer(_given, *one, chosen, patient, mri_type) for mri_type, one in series.items()
        }  # fmt: skip
    for mri_type, mask in found.items():
        if isinstance(mask, BrainMask):
            moved = mask.transform
            movement = f"; the head moved {moved.shift:.0f} mm and {moved.angle:.0f}° in between" if moved else ""
            logger.info("patient %s: %s: brain of %.0f ml, %s%s", patient, mri_type, mask.volume, mask.source, movement)
    return found


def _answer(find: Callable[..., BrainMask], *arguments: Any) -> BrainMask | UserError:
    """The result, or the error: other series continue."""
    try:
        return find(*arguments)
    except UserError as error:
        return error


def _given(volume: np.ndarray, affine: np.ndarray, method: str, patient: str, mri_type: str) -> BrainMask:
    """The mask of another program, or from a folder."""
    what = f"patient {patient}: {mri_type}"
    if method in programs.COMMANDS:
        mask = programs.program_mask(volume, affine, method, what)
        source = f"found by {programs.COMMANDS[method]}"
    else:
        mask, file = own_mask(method, patient, mri_type, volume, affine)
        source = f"from {file}"
    if not mask.any():
        raise UserError(f"{what}: the mask {source} is empty, expected a brain's; choose another way with --brain")
    trouble = _trouble(mask, volume, affine)
    warnings = (f"its mask {source} {trouble}; look at it",) if trouble else ()
    return BrainMask(mask, source, millilitres(mask, affine), None, warnings)


def _by_deepbet(series: Mapping[str, Series], patient: str, threads: int) -> dict[str, BrainMask | UserError]:
    turned = {}
    for mri_type, stored in series.items():
        volume, affine = canonical(*stored)
        turned[mri_type] = volume, steady(affine)
    with ThreadPoolExecutor(threads) as pool:
        each = pool.map if torch.get_num_threads() == 1 else map  # or else several series would share PyTorch's threads
        coarse = dict(zip(turned, each(deepbet.coarse_mask, [volume for volume, _ in turned.values()]), strict=True))
        best, mask = _reference(turned, coarse, patient)
        transforms = _transforms(turned, coarse, best, mask, pool)
    found: dict[str, BrainMask | UserError] = {
        mri_type: BrainMask(mask, f"found by deepbet on {best}", millilitres(mask, turned[best][1]))
        if mri_type == best
        else _answer(
            _elsewhere, one, coarse[mri_type], mask, turned[best], transforms.get(mri_type), (patient, mri_type, best)
        )
        for mri_type, one in turned.items()
    }
    for mri_type, brain_mask in found.items():
        if isinstance(brain_mask, BrainMask):
            found[mri_type] = replace(brain_mask, mask=as_stored(brain_mask.mask, series[mri_type][1]))
    memory.release()  # the fine network's gigabyte
    return found


def _reference(turned: Mapping[str, Series], coarse: Mapping[str, np.ndarray], patient: str) -> tuple[str, np.ndarray]:
    """The best series in which a brain was found, and its fine mask."""
    sizes = {mri_type: millilitres(coarse[mri_type] > 0.5, affine) for mri_type, (_, affine) in turned.items()}
    order = sorted(turned, key=lambda name: BEST_FIRST.index(name) if name in BEST_FIRST else len(BEST_FIRST))
    order.sort(key=lambda name: sizes[name] < COVERED * max(sizes.values()))
    troubles = {}
    for mri_type in order:
        volume, affine = turned[mri_type]
        mask = deepbet.fine_mask(volume, coarse[mri_type])
        troubles[mri_type] = _trouble(mask, volume, affine)
        if not troubles[mri_type]:
            return mri_type, mask
    attempts = "; ".join(f"in {mri_type} its mask {trouble}" for mri_type, trouble in troubles.items())
    raise UserError(
        f"patient {patient}: deepbet found no brain: {attempts}. Give your own masks with --brain FOLDER, or --brain never where "
        "the series show the brain alone"
    )


def _transforms(
    turned: Mapping[str, Series],
    coarse: Mapping[str, np.ndarray],
    best: str,
    mask: np.ndarray,
    pool: ThreadPoolExecutor,
) -> dict[str, RigidTransform]:
    """Transforms from the other series to the best one; registration starts with the brains' centres aligned."""
    others = [name for name in turned if name != best and (coarse[name] > 0.5).any()]
    if not others or not registration.is_installed():
        return {}
    middle = centre(mask, turned[best][1])

    def register(name: str) -> RigidTransform:
        start = np.eye(4)
        start[:3, 3] = middle - centre(coarse[name] > 0.5, turned[name][1])
        return registration.register(turned[best], turned[name], start=start)

    return dict(zip(others, pool.map(register, others), strict=True))  # each is the work of one thread


def _elsewhere(
    one: Series,
    coarse: np.ndarray,
    mask: np.ndarray,
    reference: Series,
    transform: RigidTransform | None,
    names: tuple[str, str, str],
) -> BrainMask:
    """The brain in a series other than the one in which it was found."""
    patient, mri_type, best = names
    volume, affine = one
    rough = coarse > 0.5
    if transform is not None:
        border = registration.depth(mask, reference[1])
        inside = carried(border, reference[1], volume.shape, affine, transform.matrix)
        # beyond the reference, only the series itself is left
        moved = filled(largest_piece(np.where(np.isnan(inside), rough, inside > 0)))
        agreement = dice(moved, rough)
        sure = agreement >= AGREEMENT or (
            # the coarse mask of a partial head may be wrong: registering again from another start shows it
            agreement >= LEAST_AGREEMENT
            and transform.apart(registration.register(reference, one), rough, affine) < SAME_PLACE
        )
        if sure and not _trouble(moved, volume, affine):
            source = f"found by deepbet on {best}, and transferred"
            return BrainMask(moved, source, millilitres(moved, affine), transform)
    own = deepbet.fine_mask(volume, coarse)
    trouble = _trouble(own, volume, affine)
    if trouble:
        raise UserError(
            f"patient {patient}: {mri_type}: the brain found in {best} does not fit, and deepbet's mask here {trouble}. "
            "Give your own masks with --brain FOLDER, or leave the series out"
        )
    return BrainMask(own, f"found by deepbet on {mri_type}", millilitres(own, affine))


def _trouble(mask: np.ndarray, volume: np.ndarray, affine: np.ndarray) -> str:
    """Why a mask can't be the brain's in a volume, as part of a sentence; empty where it can."""
    size = millilitres(mask, affine)
    least, most = VOLUME
    if not size:
        return "is empty"
    if size > most or size < (SMALLEST_PART if _is_cut(mask, affine) else least):
        return f"has {size:.0f} ml, expected {least:.0f} to {most:.0f}"
    inside = np.count_nonzero(mask & shown(volume)) / np.count_nonzero(mask)
    if inside < INSIDE:
        return f"lies outside the head, only {inside:.0%} of it within, expected all"
    share = np.count_nonzero(largest_piece(mask)) / np.count_nonzero(mask)
    if share < LARGEST_PART:
        return f"is in pieces, the largest {share:.0%} of it, expected one piece"
    return ""


def _is_cut(mask: np.ndarray, affine: np.ndarray) -> bool:
    """Whether the brain goes on beyond the volume."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    for axis in range(3):
        area = np.prod(np.delete(spacing, axis)) / 100
        if any(np.count_nonzero(mask.take(end, axis)) * area > CUT for end in (0, -1)):
            return True
    return False


def _no_way(what: str) -> str:
    return (
        f"{what}: the series {'show' if ',' in what else 'shows'} the skull, expected the brain alone. Install a brain "
        "extractor (pip install 'brats-mri-radiogenomics[brain]'), or give your own masks (--brain FOLDER), or use the series "
        "as they are (--brain never)"
    )
