"""Adversarial training: the model also learns from embeddings moved to where its loss rises fastest."""

import contextlib
import dataclasses
import math
import threading

import tensorflow as tf

from keras_attention.layers.keras_mask import get_keras_mask


@dataclasses.dataclass(frozen=True)
class FastGradientMethod:
    """The fast gradient method on embeddings, for `fit(..., regularizers=[FastGradientMethod("embedding_norm")])`.

    A step adds to the loss that of a second pass, in which the output of the embedding layer is moved by
    `epsilon * g / |g|`, where g is the gradient of the loss with respect to that output. The length is taken over all
    positions of an example, padding is not moved, and no gradient flows through the movement itself. Both passes have
    the same dropout, the second loss is logged as `adversarial_loss`, and losses that layers add count once. A layer
    that is called several times in a pass is moved at each call, by `epsilon` each. A step takes about twice as long.
    Validation is not changed.

    Attributes:
        embedding: str, the name of a layer anywhere in the model, such as "embedding_norm", the normalised embeddings
            in `keras_attention.models.TextEncoder`.
        epsilon: float, at least 0, how far an example is moved. It must be small beside the length of an example, which
            for T tokens of D normalised numbers is sqrt(T * D), and may be far smaller for embeddings that are not
            normalised: with too large an epsilon nothing is learned.

    Raises:
        ValueError: if `epsilon` is negative, or not a number.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import tensorflow as tf
    >>> from keras_attention.training import FastGradientMethod, TrainingConfig, fit
    >>> def build():
    ...     layers = [keras.layers.Embedding(9, 4, name="tokens"), keras.layers.GlobalAveragePooling1D()]
    ...     model = keras.Sequential([keras.Input((None,)), *layers, keras.layers.Dense(1)])
    ...     model.compile("adam", "mse")
    ...     return model
    >>> data = tf.data.Dataset.from_tensor_slices((np.ones((8, 3)), np.ones((8, 1)))).batch(4)
    >>> method = FastGradientMethod("tokens", epsilon=0.5)
    >>> trained = fit(build, data, config=TrainingConfig(progress=False), regularizers=[method])
    >>> sorted(trained.history.history)
    ['adversarial_loss', 'loss']

    Reference: Miyato et al. 2017, Adversarial Training Methods for Semi-Supervised Text Classification, equations 2
    and 5, https://arxiv.org/abs/1605.07725
    """

    embedding: str
    epsilon: float = 1.0

    def __post_init__(self):
        if not isinstance(self.epsilon, int | float) or not 0 <= self.epsilon < math.inf:
            raise ValueError(f"`epsilon` must be a number of at least 0. Received: epsilon={self.epsilon!r}")


def perturbation(gradient, mask, epsilon):
    """What moves embeddings along their gradient.

    Args:
        gradient: float [B, ..., D], of the loss with respect to them.
        mask: bool [B, ...], of the real positions, or None.
        epsilon: float, the length of the movement of an example.

    Returns:
        float32 [B, ..., D]. Zero for an example whose gradient is zero.
    """
    gradient = tf.cast(gradient, tf.float32)
    if mask is not None:
        missing = gradient.shape.rank - mask.shape.rank
        mask = tf.reshape(mask, tf.concat([tf.shape(mask), tf.ones(missing, tf.int32)], 0))
        gradient *= tf.cast(mask, tf.float32)
    # A float16 gradient that has overflown leads nowhere; its step is not applied.
    gradient = tf.where(tf.math.is_finite(gradient), gradient, 0.0)
    axes = range(1, gradient.shape.rank)
    # First by the largest: the squares of a small gradient would vanish.
    gradient = tf.math.divide_no_nan(gradient, tf.reduce_max(tf.abs(gradient), axes, keepdims=True))
    length = tf.sqrt(tf.reduce_sum(gradient**2, axes, keepdims=True))
    return tf.stop_gradient(epsilon * tf.math.divide_no_nan(gradient, length))


class Adversary:
    """What moves the output of one layer of a model, within `with adversary:`.

    Keras has no hook on a layer's output, so the layer's `call` is replaced by one that asks what to do.

    Args:
        model: `keras.Model`, built.
        method: `FastGradientMethod`.

    Raises:
        ValueError: if the model has not one layer of that name.
    """

    def __init__(self, model, method):
        layers = model._flatten_layers(include_self=False)  # `model.layers` has only the outermost
        found = [layer for layer in layers if layer.name == method.embedding]
        if len(found) != 1:
            likely = sorted({layer.name for layer in layers if "embed" in layer.name} or {each.name for each in layers})
            raise ValueError(
                f"`embedding` must be the name of one layer of the model, which has {len(found)} of that name. Among "
                f"others there are {', '.join(likely[:10])}. Received: embedding={method.embedding!r}"
            )
        self._layer = found[0]
        self._method = method
        self._here = threading.local()  # Replicas are traced in threads of their own.

    def __enter__(self):
        forward = self._layer.call

        def call(*args, **kwargs):
            output = forward(*args, **kwargs)
            on_output = getattr(self._here, "on_output", None)
            return on_output(output) if on_output else output

        self._layer.call = call
        return self

    def __exit__(self, *_):
        del self._layer.call

    @contextlib.contextmanager
    def watched(self, tape):
        """Within it, the outputs of the layer come to a list, and the tape can tell their gradients.

        Args:
            tape: `tf.GradientTape`.

        Yields:
            list of float tensors.

        Raises:
            ValueError: if the model does not call the layer, or recomputes it.
        """
        outputs = []

        def watch(output):
            tape.watch(output)  # if the layer is frozen, the tape does not know it
            outputs.append(output)
            return output

        with self._when_called(watch):
            yield outputs
        reason = "is not called by the model"
        if outputs and any(output.graph is not tf.compat.v1.get_default_graph() for output in outputs):
            reason, outputs = "must not be recomputed in the backward pass", []
        if not outputs:
            raise ValueError(f"`embedding` names a layer that {reason}. Received: embedding={self._method.embedding!r}")

    def moved(self, outputs, gradients):
        """Within it, the layer gives other outputs than those that were watched.

        Args:
            outputs: list of float tensors.
            gradients: list of float tensors, of the loss with respect to them.
        """
        movements = []
        for output, gradient in zip(outputs, gradients, strict=True):
            gradient = tf.zeros_like(output) if gradient is None else gradient
            movements.append(perturbation(gradient, get_keras_mask(output), self._method.epsilon))

        def move(output):
            return output + tf.cast(movements.pop(0), output.dtype)

        return self._when_called(move)

    @contextlib.contextmanager
    def _when_called(self, function):
        self._here.on_output = function
        try:
            yield
        finally:
            self._here.on_output = None
