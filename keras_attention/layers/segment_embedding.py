"""Learned segments (the first text, the second), added to a sequence."""

import keras
from keras import initializers, ops


@keras.saving.register_keras_serializable("keras_attention")
class SegmentEmbedding(keras.layers.Layer):
    """Adds a learned vector for the segment of each position to the vector that stands there.

    Masking: the mask of the input is passed on.

    Args:
        num_segments: int, the number of segments, or token types.
        embeddings_initializer: initializer of the vectors.

    Call arguments:
        inputs: float [B, T, D].
        segment_ids: int [B, T], from 0 to `num_segments` - 1. Defaults to 0 everywhere.

    Returns:
        float [B, T, D].

    Raises:
        ValueError: if `num_segments` is not a positive integer.

    Example:

    >>> import numpy as np
    >>> from keras_attention.layers import SegmentEmbedding
    >>> SegmentEmbedding(num_segments=2)(np.zeros((1, 3, 4), "float32"), np.array([[0, 0, 1]])).shape
    TensorShape([1, 3, 4])

    Reference: Devlin et al. 2019, BERT, section 3 (figure 2), https://arxiv.org/abs/1810.04805
    """

    def __init__(self, num_segments, embeddings_initializer="uniform", **kwargs):
        if not isinstance(num_segments, int) or isinstance(num_segments, bool) or num_segments <= 0:
            raise ValueError(f"`num_segments` must be a positive integer. Received: num_segments={num_segments!r}")
        super().__init__(**kwargs)
        self.supports_masking = True
        self.num_segments = num_segments
        self.embeddings_initializer = initializers.get(embeddings_initializer)

    def build(self, inputs_shape, segment_ids_shape=None):
        self.segment_embeddings = self.add_weight(
            shape=(self.num_segments, inputs_shape[-1]),
            initializer=self.embeddings_initializer.clone(),
            name="segment_embeddings",
        )

    def call(self, inputs, segment_ids=None):
        if segment_ids is None:
            segment_ids = ops.zeros((1, 1), "int32")
        segments = ops.take(self.segment_embeddings, ops.cast(segment_ids, "int32"), axis=0)
        return inputs + ops.cast(segments, inputs.dtype)

    def compute_output_shape(self, inputs_shape, segment_ids_shape=None):
        return inputs_shape

    def get_config(self):
        return {
            **super().get_config(),
            "num_segments": self.num_segments,
            "embeddings_initializer": initializers.serialize(self.embeddings_initializer),
        }
