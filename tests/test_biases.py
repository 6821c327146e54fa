"""Bias specifications: their values, sums and saving."""

import keras
import numpy as np
import pytest

from keras_attention.biases import ALiBi, ExplicitBias
from tests.backend import assert_close, to_numpy


def test_alibi_has_the_papers_slopes():
    assert_close(ALiBi(8).slopes(), [2.0**-i for i in range(1, 9)])
    # For 12 heads: those of 8, then every second one of 16, as in the paper's code.
    sixteen = [2.0 ** (-0.5 * i) for i in range(1, 17)]
    assert_close(ALiBi(12).slopes(), [2.0**-i for i in range(1, 9)] + sixteen[0:8:2])


def test_alibi_falls_with_the_distance_on_both_sides():
    tile = to_numpy(ALiBi(2).tile(np.arange(2, 5), np.arange(6)))
    distance = np.abs(np.subtract.outer(np.arange(2, 5), np.arange(6)))
    assert_close(tile[0], [-(2.0**-4) * distance, -(2.0**-8) * distance])


def test_a_sum_is_the_sum_of_its_tiles_and_has_their_parameters():
    matrix = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    total = ExplicitBias(matrix) + ALiBi(2) + ExplicitBias(matrix[None])
    rows, columns = np.arange(1, 3), np.arange(4)
    assert_close(
        to_numpy(total.tile(rows, columns)),
        to_numpy(ALiBi(2).tile(rows, columns)) + 2 * matrix[rows],
        rtol=1e-6,
    )
    assert len(total.parameters) == 2
    assert len(total.terms()) == 3


def test_alibi_is_saved():
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(ALiBi(6)))
    assert again.num_heads == 6


def test_what_is_no_bias_is_refused():
    with pytest.raises(ValueError, match="Received: num_heads=0"):
        ALiBi(0)
    with pytest.raises(ValueError, match=r"Received: shape \(3,\)"):
        ExplicitBias(np.ones(3))
