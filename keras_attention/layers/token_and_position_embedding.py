"""Token ids to vectors that also say where the token stands."""

import keras
from keras import initializers, ops


@keras.saving.register_keras_serializable("keras_attention")
class TokenAndPositionEmbedding(keras.layers.Layer):
    """The sum of a token's embedding and a learned embedding of its position.

    Masking: the output carries the mask `ids != pad_id`.

    Args:
        vocabulary_size: int, V.
        sequence_length: int, the number of positions; ids may be shorter.
        embedding_dim: int, D.
        pad_id: int, the id of padding; None for ids that are never padded.
        embeddings_initializer: initializer of both tables.

    Call arguments:
        ids: int [B, T], with T at most `sequence_length`.

    Returns:
        float [B, T, D].

    Raises:
        ValueError: if a size is not positive, or the ids are longer than `sequence_length`.

    Example:

    >>> import numpy as np
    >>> from keras_attention.layers import TokenAndPositionEmbedding
    >>> layer = TokenAndPositionEmbedding(vocabulary_size=100, sequence_length=8, embedding_dim=4)
    >>> layer(np.array([[5, 7, 0]])).shape
    TensorShape([1, 3, 4])

    Reference: Devlin et al. 2019, BERT, section 3 (figure 2), https://arxiv.org/abs/1810.04805
    """

    def __init__(
        self,
        vocabulary_size,
        sequence_length,
        embedding_dim,
        pad_id=0,
        embeddings_initializer="uniform",
        **kwargs,
    ):
        sizes = {
            "vocabulary_size": vocabulary_size,
            "sequence_length": sequence_length,
            "embedding_dim": embedding_dim,
        }
        for name, value in sizes.items():
            if not isinstance(value, int) or value <= 0:
                raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
        super().__init__(**kwargs)
        self.supports_masking = True
        self.vocabulary_size = vocabulary_size
        self.sequence_length = sequence_length
        self.embedding_dim = embedding_dim
        self.pad_id = pad_id
        self.embeddings_initializer = initializers.get(embeddings_initializer)

    def build(self, ids_shape):
        self.token_embeddings = self.add_weight(
            shape=(self.vocabulary_size, self.embedding_dim),
            initializer=self.embeddings_initializer.clone(),
            name="token_embeddings",
        )
        self.position_embeddings = self.add_weight(
            shape=(self.sequence_length, self.embedding_dim),
            initializer=self.embeddings_initializer.clone(),
            name="position_embeddings",
        )

    def call(self, ids):
        if ids.shape[1] is not None and ids.shape[1] > self.sequence_length:
            raise ValueError(
                f"`ids` must not be longer than `sequence_length` ({self.sequence_length}). "
                f"Received: shape {tuple(ids.shape)}"
            )
        tokens = ops.take(self.token_embeddings, ops.cast(ids, "int32"), axis=0)
        positions = ops.convert_to_tensor(self.position_embeddings)[: ops.shape(ids)[1]]
        return ops.cast(tokens, self.compute_dtype) + ops.cast(positions, self.compute_dtype)

    def compute_mask(self, ids, previous_mask=None):
        return None if self.pad_id is None else ops.not_equal(ids, self.pad_id)

    def compute_output_shape(self, ids_shape):
        return (*ids_shape, self.embedding_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "sequence_length": self.sequence_length,
            "embedding_dim": self.embedding_dim,
            "pad_id": self.pad_id,
            "embeddings_initializer": initializers.serialize(self.embeddings_initializer),
        }
