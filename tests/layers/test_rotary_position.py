"""RotaryPosition against complex numbers, its scalings against their formulas, and what it refuses."""

import math

import keras
import numpy as np
import pytest

from keras_attention.layers.rotary_position import RotaryPosition
from tests.backend import assert_close, assert_equal, to_numpy

B, T, N, H = 2, 6, 3, 8
RNG = np.random.default_rng(0)


def heads(*shape):
    return RNG.normal(size=shape or (B, T, N, H)).astype("float32")


def turned_as_complex_numbers(x, positions, frequencies, interleaved):
    """x e^(i p theta), for each pair of features as one complex number."""
    half = x.shape[-1] // 2
    first, second = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    angles = np.broadcast_to(positions, x.shape[:2])[..., None, None] * np.asarray(frequencies)
    pairs = (first + 1j * second) * np.exp(1j * angles)
    if interleaved:
        return np.stack([pairs.real, pairs.imag], axis=-1).reshape(x.shape)
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def plain_frequencies(size, base=10_000.0):
    return [base ** (-2 * i / size) for i in range(size // 2)]


@pytest.mark.parametrize("interleaved", [False, True], ids=["half-split", "interleaved"])
@pytest.mark.parametrize("positions", [np.arange(T) + 7, RNG.integers(0, 5000, (B, T))], ids=["[T]", "[B, T]"])
def test_rotation_is_multiplication_with_complex_numbers(interleaved, positions):
    x = heads()
    got = RotaryPosition(interleaved=interleaved).rotate(x, positions.astype("int32"))
    expected = turned_as_complex_numbers(x, positions, plain_frequencies(H), interleaved)
    assert_close(got, expected, atol=3e-3 if positions.max() > 100 else 1e-5)


@pytest.mark.parametrize("interleaved", [False, True], ids=["half-split", "interleaved"])
def test_features_beyond_rotary_dim_pass_untouched(interleaved):
    x = heads()
    got = RotaryPosition(rotary_dim=4, interleaved=interleaved).rotate(x, np.arange(T))
    expected = turned_as_complex_numbers(x[..., :4], np.arange(T), plain_frequencies(4), interleaved)
    assert_close(got[..., :4], expected, atol=1e-5)
    assert_equal(got[..., 4:], x[..., 4:])


@pytest.mark.parametrize("scaling", [None, "linear", "ntk", "yarn"])
@pytest.mark.parametrize("interleaved", [False, True], ids=["half-split", "interleaved"])
def test_inner_products_depend_on_the_distance_only(scaling, interleaved):
    arguments = {} if scaling is None else {"scaling": scaling, "factor": 4.0}
    if scaling == "yarn":
        arguments["original_length"] = 64
    rotary = RotaryPosition(interleaved=interleaved, **arguments)
    query, key = heads(1, 1, 1, H), heads(1, 1, 1, H)

    def product(query_position, key_position):
        turned = rotary.rotate(query, np.array([query_position])), rotary.rotate(key, np.array([key_position]))
        return float(np.sum(to_numpy(turned[0]) * to_numpy(turned[1])))

    for distance in (0, 3, -11):
        expected = product(20, 20 + distance)
        assert product(100, 100 + distance) == pytest.approx(expected, abs=1e-4)
    assert abs(product(20, 23) - product(20, 26)) > 1e-3


def test_linear_scaling_is_the_rotation_at_positions_divided_by_the_factor():
    x = heads()
    got = RotaryPosition(scaling="linear", factor=4.0).rotate(x, 4 * np.arange(T))
    assert_close(got, RotaryPosition().rotate(x, np.arange(T)), atol=1e-5)


def test_ntk_scaling_is_the_changed_base():
    base = 10_000.0 * 8.0 ** (H / (H - 2))
    got = RotaryPosition(scaling="ntk", factor=8.0).frequencies(H)
    assert_close(got, plain_frequencies(H, base), rtol=1e-9)
    assert got[0] == 1
    assert got[-1] == pytest.approx(plain_frequencies(H)[-1] / 8)
    assert_equal(RotaryPosition(scaling="ntk", factor=8.0).frequencies(2), [1.0])


def test_yarn_is_the_formula_of_its_code():
    size, base, factor, length = 128, 10_000.0, 16.0, 4096
    rotary = RotaryPosition(scaling="yarn", factor=factor, original_length=length)
    first = math.floor(size * math.log(length / (32 * 2 * math.pi)) / (2 * math.log(base)))
    last = math.ceil(size * math.log(length / (1 * 2 * math.pi)) / (2 * math.log(base)))
    expected = []
    for i in range(size // 2):
        kept = 1 - min(max((i - first) / (last - first), 0), 1)
        theta = 1 / base ** (2 * i / size)
        expected.append(theta / factor * (1 - kept) + theta * kept)
    assert_close(rotary.frequencies(size), expected, rtol=1e-9)
    assert rotary.attention_scale == pytest.approx((0.1 * math.log(16) + 1) ** 2)


def test_yarn_keeps_what_turns_often_and_slows_what_hardly_turns():
    size, factor, length = 64, 8.0, 2048
    got = RotaryPosition(scaling="yarn", factor=factor, original_length=length).frequencies(size)
    plain = np.array(plain_frequencies(size))
    turns = length * plain / (2 * math.pi)
    step = plain[0] / plain[1]  # the ramp's ends are rounded to whole pairs
    assert_close(got[turns > 32 * step], plain[turns > 32 * step])
    assert_close(got[turns < 1 / step], plain[turns < 1 / step] / factor)
    assert np.all(np.diff(got) < 0)


@pytest.mark.parametrize("arguments", [{"scaling": "linear"}, {"scaling": "ntk"}], ids=str)
def test_factor_one_is_the_plain_rotation(arguments):
    assert_equal(RotaryPosition(**arguments).frequencies(H), RotaryPosition().frequencies(H))


def test_yarn_with_factor_one_is_the_plain_rotation():
    yarn = RotaryPosition(scaling="yarn", factor=1.0, original_length=64)
    assert_close(yarn.frequencies(H), RotaryPosition().frequencies(H), rtol=1e-12)
    assert yarn.attention_scale == RotaryPosition().attention_scale == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_turns_by_float32_angles(dtype):
    x = keras.ops.cast(heads(), dtype)
    positions = np.arange(T) + 1001
    got = RotaryPosition().rotate(x, positions)
    assert keras.backend.standardize_dtype(got.dtype) == dtype
    exact = turned_as_complex_numbers(to_numpy(x), positions, plain_frequencies(H), False)
    assert_close(got, exact, atol=0.02)


def test_a_functional_model_has_the_real_shapes_and_saves(tmp_path):
    @keras.saving.register_keras_serializable("test_rotary_position")
    class Rotated(keras.layers.Layer):
        def __init__(self, position, **kwargs):
            super().__init__(**kwargs)
            self.position = keras.saving.deserialize_keras_object(position) if isinstance(position, dict) else position

        def call(self, x):
            return self.position.rotate(x, keras.ops.arange(keras.ops.shape(x)[1]))

        def get_config(self):
            return {**super().get_config(), "position": keras.saving.serialize_keras_object(self.position)}

    x = keras.Input((None, N, H))
    model = keras.Model(x, Rotated(RotaryPosition(scaling="yarn", factor=4.0, original_length=8, interleaved=True))(x))
    assert model.output_shape == (None, None, N, H)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    sample = heads()
    assert_equal(model(sample), again(sample))
    assert again.layers[-1].position == model.layers[-1].position


def test_two_with_the_same_arguments_are_equal_and_say_what_they_are():
    first, second = RotaryPosition(scaling="linear", factor=2.0), RotaryPosition(scaling="linear", factor=2.0)
    assert first == second
    assert hash(first) == hash(second)
    assert first != RotaryPosition()
    assert "scaling='linear', factor=2.0" in repr(first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_wavelength": 0}, "Received: max_wavelength=0"),
        ({"scaling": "dynamic"}, "Received: scaling='dynamic'"),
        ({"scaling": "linear", "factor": 0.5}, "Received: factor=0.5 with scaling='linear'"),
        ({"factor": 2.0}, "Received: factor=2.0 with scaling=None"),
        ({"scaling": "yarn", "factor": 2.0}, "Received: original_length=None with scaling='yarn'"),
        ({"scaling": "ntk", "original_length": 8}, "Received: original_length=8 with scaling='ntk'"),
        ({"scaling": "yarn", "original_length": 0}, "Received: original_length=0"),
        ({"rotary_dim": 3}, "Received: rotary_dim=3"),
        ({"rotary_dim": 0}, "Received: rotary_dim=0"),
        ({"beta_fast": 1, "beta_slow": 2}, "Received: beta_fast=1, beta_slow=2"),
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused_at_construction(arguments, message):
    with pytest.raises(ValueError, match=message):
        RotaryPosition(**arguments)


def test_heads_of_an_odd_size_or_below_rotary_dim_are_refused():
    with pytest.raises(ValueError, match=r"Received: x of shape \(2, 6, 3, 7\) with rotary_dim=None"):
        RotaryPosition().rotate(heads(B, T, N, 7), np.arange(T))
    with pytest.raises(ValueError, match="with rotary_dim=10"):
        RotaryPosition(rotary_dim=10).rotate(heads(), np.arange(T))
