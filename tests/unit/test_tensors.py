"""Checkpoints as safetensors: our pieces are the library's bytes, and its reader takes them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save

from central.federation.checkpoint import join_arrays, split_arrays
from central.federation.tensors import tensor_parts, tensors
from protocol.errors import IntegrityError

ARRAY = st.sampled_from(["float32", "float64", "int32", "int64"]).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), ARRAY, max_size=6))
def test_the_bytes_are_the_librarys(arrays: dict) -> None:
    arrays.pop("__metadata__", None)
    raw = b"".join(tensor_parts(arrays))
    assert raw == save(arrays)
    read = tensors(raw)
    assert {k: (v.dtype, v.shape, v.tobytes()) for k, v in read.items()} == {
        k: (v.dtype, v.shape, v.tobytes()) for k, v in arrays.items()
    }


def test_model_and_preprocessing_come_back() -> None:
    model, preprocessing = {"w": np.arange(6.0).reshape(2, 3)[:, ::2]}, {"mean": np.array([1.5])}
    read = split_arrays(join_arrays(model, preprocessing))
    assert np.array_equal(read[0]["w"], model["w"])
    assert np.array_equal(read[1]["mean"], preprocessing["mean"])


def test_what_is_no_file_is_one_error() -> None:
    with pytest.raises(IntegrityError) as error:
        tensors(b"\xff" * 40)
    assert error.value.code == "blob.digest"
