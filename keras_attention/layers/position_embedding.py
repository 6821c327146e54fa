"""Learned absolute positions, added to a sequence."""

import keras
from keras import initializers, ops


@keras.saving.register_keras_serializable("keras_attention")
class PositionEmbedding(keras.layers.Layer):
    """Adds a learned vector for each position to the vector that stands there.

    Masking: the mask of the input is passed on.

    Args:
        sequence_length: int, the number of positions; sequences may be shorter.
        embeddings_initializer: initializer of the vectors.

    Call arguments:
        inputs: float [B, T, D].
        start_index: int or int32 scalar, the position of the first vector. `start_index` + T is at most
            `sequence_length`.

    Returns:
        float [B, T, D].

    Raises:
        ValueError: if `sequence_length` is not a positive integer, or the inputs reach beyond it. Where T or
            `start_index` is known only at run time, it is the backend that meets the missing position.

    Example:

    >>> import numpy as np
    >>> from keras_attention.layers import PositionEmbedding
    >>> PositionEmbedding(sequence_length=8)(np.zeros((2, 3, 4), "float32"), start_index=5).shape
    TensorShape([2, 3, 4])

    Reference: Gehring et al. 2017, Convolutional Sequence to Sequence Learning, section 3.1,
    https://arxiv.org/abs/1705.03122
    """

    def __init__(self, sequence_length, embeddings_initializer="uniform", **kwargs):
        if not isinstance(sequence_length, int) or isinstance(sequence_length, bool) or sequence_length <= 0:
            raise ValueError(
                f"`sequence_length` must be a positive integer. Received: sequence_length={sequence_length!r}"
            )
        super().__init__(**kwargs)
        self.supports_masking = True
        self.sequence_length = sequence_length
        self.embeddings_initializer = initializers.get(embeddings_initializer)

    def build(self, inputs_shape):
        self.position_embeddings = self.add_weight(
            shape=(self.sequence_length, inputs_shape[-1]),
            initializer=self.embeddings_initializer.clone(),
            name="position_embeddings",
        )

    def call(self, inputs, start_index=0):
        self._check_length(inputs, start_index)
        positions = ops.arange(ops.shape(inputs)[1], dtype="int32") + start_index
        return inputs + ops.cast(ops.take(self.position_embeddings, positions, axis=0), inputs.dtype)

    def _check_length(self, inputs, start_index):
        length = inputs.shape[1]
        if length is None or not isinstance(start_index, int):
            return
        if start_index < 0 or start_index + length > self.sequence_length:
            raise ValueError(
                f"`inputs` must not reach beyond `sequence_length` ({self.sequence_length}). "
                f"Received: shape {tuple(inputs.shape)} with start_index={start_index}"
            )

    def compute_output_shape(self, inputs_shape, start_index_shape=None):
        return inputs_shape

    def get_config(self):
        return {
            **super().get_config(),
            "sequence_length": self.sequence_length,
            "embeddings_initializer": initializers.serialize(self.embeddings_initializer),
        }
