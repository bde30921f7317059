from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from custom_transforms import ChunkSlices, ChunkSlicesD, ChunkSlicesd, ChunkSlicesDict, SeriesReader


@given(n=st.integers(1, 150), length=st.integers(1, 40), data=st.data())
@settings(max_examples=150, deadline=None)
def test_rule_of_the_chunks(n, length, data):
    stride = data.draw(st.integers(1, length))
    stack = np.arange(1, n + 1, dtype=np.int32)
    chunks = ChunkSlices(length, stride)(stack)
    count = max(math.ceil((n - length) / stride) + 1, 1)
    expected = []
    for m in range(count):
        values = [int(stack[index]) for index in range(m * stride, min(m * stride + length, n))]
        assert values
        expected.append(values + [0] * (length - len(values)))
    assert chunks.tolist() == expected
    # Nothing is lost.
    assert set(range(1, n + 1)) <= set(chunks.ravel().tolist())


@pytest.mark.parametrize(("n", "count"), [(0, 0), (1, 1), (35, 1), (36, 2), (40, 2), (41, 3), (155, 25)])
def test_count_of_the_method(n, count):
    chunker = ChunkSlices()
    assert chunker(np.ones((n, 2, 3), dtype=np.uint8)).shape == (count, 35, 2, 3)
    assert len(chunker.bounds(n)) == count
    assert all(0 <= start < stop <= n for start, stop in chunker.bounds(n))


def test_types_and_dtypes():
    stack = torch.randint(0, 255, (37, 3, 4, 4), dtype=torch.uint8)
    expected = ChunkSlices()(stack.numpy())
    for given_stack in (stack, MetaTensor(stack)):
        chunks = ChunkSlices()(given_stack)
        assert type(chunks) is torch.Tensor
        assert chunks.dtype == torch.uint8
        np.testing.assert_array_equal(chunks.numpy(), expected)
    assert ChunkSlices()(torch.zeros(3, dtype=torch.bool)).dtype == torch.bool


@pytest.mark.parametrize(("length", "stride"), [(0, 1), (5, 0), (5, 6), (-1, -1)])
def test_impossible_strides_are_refused(length, stride):
    with pytest.raises(ValueError, match="stride"):
        ChunkSlices(length, stride)


@pytest.mark.parametrize("transform", [ChunkSlicesd, ChunkSlicesD, ChunkSlicesDict])
def test_dictionary_form(transform):
    data = {"image": np.arange(12), "other": np.arange(12)}
    result = transform("image", length=10, stride=5)(data)
    assert result["image"].tolist() == [list(range(10)), [5, 6, 7, 8, 9, 10, 11, 0, 0, 0]]
    assert result["other"].shape == data["image"].shape == (12,)


def test_real_series(real_data: Path):
    series = SeriesReader()
    volume, _ = series.get_data(series.read(real_data / "task2" / "train" / "07294" / "FLAIR"))
    stack = volume.transpose(2, 1, 0)
    chunks = ChunkSlices()(stack)
    assert chunks.shape == (8, 35, 256, 256)
    np.testing.assert_array_equal(chunks[7, :33], stack[35:])
    assert not chunks[7, 33:].any()
