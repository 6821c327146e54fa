"""R-Drop: two passes with other dropout are to predict alike."""

import dataclasses
import math

import keras
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class RDrop:
    """Regularised dropout, for `fit(..., regularizers=[RDrop(4.0)])`.

    The batch goes through the model twice, with other dropout, and the loss of every example or position becomes the
    mean of its two losses and `alpha` times the symmetric Kullback-Leibler divergence of its two predictions,
    (KL(p, q) + KL(q, p)) / 2. Masks, sample weights, ignored classes and the weights of outputs count for the
    divergence as they do for the loss. (The paper adds the two losses: its formula is twice this one, with
    alpha half of the paper's.) A step takes about twice as long. Validation is not changed.

    The losses that the model is compiled with must be cross-entropies, binary or categorical, on logits or
    probabilities: that of Keras or `SmoothedCrossentropy`.

    Attributes:
        alpha: float, at least 0, the weight of the divergence. The paper's 1 to 5 are 0.5 to 2.5
            here.

    Raises:
        ValueError: if `alpha` is negative, or not a number.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import tensorflow as tf
    >>> from keras_attention.training import RDrop, TrainingConfig, fit
    >>> def build():
    ...     model = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.5), keras.layers.Dense(2)])
    ...     model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    ...     return model
    >>> data = tf.data.Dataset.from_tensor_slices((np.ones((8, 3)), np.ones((8, 1)))).batch(4)
    >>> trained = fit(build, data, config=TrainingConfig(progress=False), regularizers=[RDrop(4.0)])

    Reference: Liang et al. 2021, R-Drop: Regularized Dropout for Neural Networks, https://arxiv.org/abs/2106.14448
    """

    alpha: float = 1.0

    def __post_init__(self):
        if not isinstance(self.alpha, int | float) or not 0 <= self.alpha < math.inf:
            raise ValueError(f"`alpha` must be a number of at least 0. Received: alpha={self.alpha!r}")

    def check(self, loss):
        """Refuses a loss whose predictions are no distribution.

        Args:
            loss: as a model is compiled with it, of one output; None is allowed.

        Raises:
            ValueError: if it is not a cross-entropy.
        """
        if loss is not None and _kind(loss) is None:
            raise ValueError(
                "`RDrop` compares predicted distributions, and needs a cross-entropy of Keras or "
                f"`SmoothedCrossentropy` as the loss of every output. Received: loss={loss!r}"
            )

    def values(self, loss, values, values_again, output, output_again):
        """The losses of the examples or positions of one output.

        Args:
            loss: as a model is compiled with it.
            values: float [B, ...], the losses in the first pass.
            values_again: float [B, ...], in the second.
            output: float [B, ..., V], the logits or probabilities of the first pass.
            output_again: float [B, ..., V], of the second.

        Returns:
            float [B, ...].
        """
        is_binary, from_logits = _kind(loss)
        parts = _binary if is_binary else _categorical
        (p, log_p), (q, log_q) = (parts(tf.cast(tensor, tf.float32), from_logits) for tensor in (output, output_again))
        # KL(p, q) + KL(q, p) in one.
        divergence = 0.5 * (p - q) * (log_p - log_q)
        divergence = tf.reduce_mean(divergence, -1) if is_binary else tf.reduce_sum(divergence, -1)
        return 0.5 * (values + values_again) + self.alpha * divergence


_BINARY = (keras.losses.BinaryCrossentropy, keras.losses.BinaryFocalCrossentropy)
_FUNCTIONS = {
    keras.losses.binary_crossentropy: True,
    keras.losses.categorical_crossentropy: False,
    keras.losses.sparse_categorical_crossentropy: False,
}


def _kind(loss):
    """(whether it is binary, whether it takes logits), or None if it is no cross-entropy."""
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    if isinstance(loss, keras.losses.Loss):
        from_logits = getattr(loss, "from_logits", None)
        return None if from_logits is None else (isinstance(loss, _BINARY), from_logits)
    return (_FUNCTIONS[loss], False) if loss in _FUNCTIONS else None


def _categorical(output, from_logits):
    """Probabilities and their logarithms."""
    if from_logits:
        return tf.nn.softmax(output), tf.nn.log_softmax(output)
    return output, tf.math.log(_clip(output))


def _binary(output, from_logits):
    """Probabilities, and what stands for their logarithms where p and 1 - p are taken together: the logits."""
    if from_logits:
        return tf.sigmoid(output), output
    clipped = _clip(output)
    return output, tf.math.log(clipped) - tf.math.log1p(-clipped)


def _clip(probabilities):
    return tf.clip_by_value(probabilities, keras.config.epsilon(), 1.0 - keras.config.epsilon())
