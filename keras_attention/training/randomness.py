"""The random state of a model as a function of the step, the replica and the part of the batch."""

import numpy as np
import tensorflow as tf


class RandomStates:
    """The seed generators of a model, each set anew at every step.

    Keras's generators count their draws, and all replicas draw the same. Here a generator's state at a step is its own
    seed mixed with a number that follows from the step, the replica and the part of the batch: replicas drop different
    positions, and a run that goes on from a checkpoint draws what the uninterrupted run would have drawn.

    Args:
        model: `keras.Model`, built.

    Reference: Salmon et al. 2011, Parallel Random Numbers: As Easy as 1, 2, 3, https://doi.org/10.1145/2063384.2063405
    """

    def __init__(self, model):
        self.variables = [v for v in model.variables if v.path.endswith("seed_generator_state")]
        self.seeds = [np.array(variable) for variable in self.variables]

    def set_for(self, step, stream):
        """Sets the generators, in a replica's context.

        Args:
            step: int64 scalar, the batches so far.
            stream: int or int32 scalar, another one for each replica and part of the batch.
        """
        if not self.variables:
            return
        mixed = tf.random.experimental.stateless_fold_in(tf.stack([step, tf.zeros_like(step)]), stream)
        for variable, seed in zip(self.variables, self.seeds, strict=True):
            variable.assign(tf.bitwise.bitwise_xor(mixed, tf.constant(seed, mixed.dtype)))
