"""Sequences of slices ("chunks") of one length for the recurrent classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import Transform
from monai.utils import TransformBackends

from .each_key import EachKey


class ChunkSlices(Transform):
    """
    Cut a stack ``(N, ...)`` into overlapping chunks ``(M, length, ...)``, the last one filled up with zeros.

    M = max(ceil((N - length) / stride) + 1, 1), and 0 for an empty stack. Source: T4E solution of the RSNA-MICCAI 2021
    challenge, stage 2 (35 slices, stride 5).

    Args:
        length: slices in a chunk.
        stride: slices from the start of a chunk to that of the next.

    Raises:
        ValueError: unless 1 <= stride <= length; a longer stride would leave slices out.
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]  # noqa: RUF012

    def __init__(self, length: int = 35, stride: int = 5) -> None:
        if not 1 <= stride <= length:
            raise ValueError(f"Expected 1 <= stride <= length, got stride {stride} and length {length}.")
        self.length = length
        self.stride = stride

    def bounds(self, n: int) -> list[tuple[int, int]]:
        """Return (start, stop) of the slices in each chunk of a stack of ``n``, without the zeros."""
        if n < 1:
            return []
        chunks = max(-(-(n - self.length) // self.stride) + 1, 1)
        return [(start, min(start + self.length, n)) for start in range(0, chunks * self.stride, self.stride)]

    def __call__(self, stack: NdarrayOrTensor) -> NdarrayOrTensor:
        """Return the chunks ``(M, length, ...)`` of a stack ``(N, ...)``; a MetaTensor gives a plain tensor."""
        plain = stack.as_tensor() if isinstance(stack, MetaTensor) else stack
        bounds = self.bounds(len(plain))
        shape = (len(bounds), self.length, *plain.shape[1:])
        chunks: Any = plain.new_zeros(shape) if isinstance(plain, torch.Tensor) else np.zeros(shape, dtype=plain.dtype)
        for chunk, (start, stop) in enumerate(bounds):
            chunks[chunk, : stop - start] = plain[start:stop]
        return chunks


class ChunkSlicesd(EachKey):
    """Dictionary form of :py:class:`ChunkSlices`, whose ``length`` and ``stride`` it has; each stack is replaced by its chunks."""

    backend = ChunkSlices.backend

    def __init__(
        self, keys: KeysCollection, length: int = 35, stride: int = 5, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, ChunkSlices(length, stride), allow_missing_keys)


ChunkSlicesD = ChunkSlicesDict = ChunkSlicesd
