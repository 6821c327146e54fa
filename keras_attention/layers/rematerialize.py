"""Recomputation in the backward pass that draws the dropout of the forward pass again."""

import keras
import numpy as np
from keras import ops

# More than one call of a layer draws from any of its generators, so that calls never share their draws.
_DRAWS_PER_CALL = 256


def rematerialize(function, seed_generators):
    """A function with the same result that keeps its inputs only, and computes the rest again in the backward pass.

    `keras.remat` alone draws a new dropout in the backward pass, on TensorFlow, and its gradients are those of another
    function than the one that gave the result. Here both passes start from the same seeds.

    Args:
        function: called with tensors, by position; those that it closes over get no gradient, but variables do.
        seed_generators: list of `keras.random.SeedGenerator`, all that the function draws from.

    Returns:
        A function of the same tensors.

    Reference: Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, https://arxiv.org/abs/1604.06174
    """

    def recomputable(*tensors):
        seeds = _states(seed_generators)

        @keras.remat
        def from_the_seeds(*tensors):
            before = _states(seed_generators)
            _assign(seed_generators, seeds)
            try:
                return function(*tensors)
            finally:  # PyTorch leaves a recomputation by an exception once it has what it needs.
                _assign(seed_generators, before)

        result = from_the_seeds(*tensors)
        step = np.array([0, _DRAWS_PER_CALL])
        _assign(seed_generators, [seed + ops.cast(step, seed.dtype) for seed in seeds])
        return result

    return recomputable


def _states(seed_generators):
    return [ops.copy(generator.state) for generator in seed_generators]


def _assign(seed_generators, states):
    for generator, state in zip(seed_generators, states, strict=True):
        generator.state.assign(state)
