"""What tests do otherwise on each Keras backend: gradients, tracing, float64, comparing tensors with numpy arrays."""

import contextlib

import keras
import numpy as np
import pytest

from keras_attention.conformance_runs import to_array, value_and_gradients

__all__ = [
    "assert_close",
    "assert_equal",
    "assert_gradients_equal_finite_differences",
    "compiled",
    "difference",
    "float64",
    "not_on_torch",
    "tensorflow_only",
    "to_numpy",
    "traced",
    "value_and_gradients",
]

BACKEND = keras.backend.backend()


def tensorflow_only(reason):
    """A mark for what is TensorFlow's own."""
    return pytest.mark.skipif(BACKEND != "tensorflow", reason=f"TensorFlow only: {reason}")


def not_on_torch(reason):
    """A mark for what PyTorch does not have."""
    return pytest.mark.skipif(BACKEND == "torch", reason=f"not on PyTorch: {reason}")


def to_numpy(x):
    """A tensor, variable or structure of equal ones as a numpy array: small floats as float32, which numpy knows."""
    if isinstance(x, (list, tuple)):
        return np.array([to_numpy(item) for item in x])
    if "bfloat16" in str(getattr(x, "dtype", "")):  # a scalar of it becomes no array on TensorFlow
        x = keras.ops.cast(x, "float32")
    array = x if isinstance(x, np.ndarray) else np.asarray(keras.ops.convert_to_numpy(x))
    is_known = array.dtype.kind in "biuOUS" or array.dtype in (np.float32, np.float64)
    return array if is_known else array.astype("float32")


def assert_close(got, expected, **tolerances):
    """`np.testing.assert_allclose` of tensors of any backend."""
    np.testing.assert_allclose(to_numpy(got), to_numpy(expected), **tolerances)


def assert_equal(got, expected):
    """`np.testing.assert_array_equal` of tensors of any backend."""
    np.testing.assert_array_equal(to_numpy(got), to_numpy(expected))


def difference(a, b):
    """max |a - b|"""
    return np.abs(to_numpy(a) - to_numpy(b)).max()


def assert_gradients_equal_finite_differences(function, arrays, atol):
    """Every derivative of a function's output by every element of float64 arrays, by differences of one element."""
    shape = to_array(function(*arrays)).shape
    projection = np.random.default_rng(7).normal(size=shape)
    numbers = keras.ops.convert_to_tensor(projection, "float64")
    _, gradients = value_and_gradients(lambda *x: keras.ops.sum(function(*x) * numbers), arrays)
    for i, gradient in enumerate(gradients):
        numerical = np.zeros_like(arrays[i])
        for index in np.ndindex(*arrays[i].shape):
            outputs = []
            for step in (1e-5, -1e-5):
                moved = [array.copy() for array in arrays]
                moved[i][index] += step
                outputs.append(np.sum(to_array(function(*moved)) * projection))
            numerical[index] = (outputs[0] - outputs[1]) / 2e-5
        np.testing.assert_allclose(to_array(gradient), numerical, atol=atol)


def traced(function):
    """The function as a graph where the backend has graphs; on PyTorch as it is."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    return compiled(function)


def compiled(function):
    """The function compiled by XLA; on PyTorch as it is."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    return function


@contextlib.contextmanager
def float64():
    """Where float64 is float64: JAX has it only when told to."""
    if BACKEND != "jax":
        yield
        return
    import jax

    with jax.enable_x64(True):
        yield
