"""The transformer encoder of the BERT family."""

import keras
from keras import ops

from keras_attention.layers import TokenAndPositionEmbedding, TransformerBlock
from keras_attention.layers.feed_forward import get_activation, serialize_activation
from keras_attention.layers.keras_mask import set_keras_mask
from keras_attention.layers.seeds import derive_seed


@keras.saving.register_keras_serializable("keras_attention")
class TextEncoder(keras.Model):
    """Token ids to one vector a token, through bidirectional self-attention.

    Embeddings of token, position and segment are added and normalised, then pass through `num_layers` blocks. Padding
    is `ids == pad_id`, stands to the right, and is never attended to; the output carries the mask.

    Args:
        vocabulary_size: int, V.
        sequence_length: int, the number of positions; ids may be shorter.
        num_layers: int, the number of blocks.
        num_heads: int, N. Must divide `hidden_dim`.
        hidden_dim: int, D.
        intermediate_dim: int, the inner size of the feed-forward networks.
        dropout: float in [0, 1), after the embeddings and in every block.
        activation: name or function, of the feed-forward networks.
        norm: "post", as in BERT, or "pre".
        layer_norm_epsilon: float.
        num_segments: int, the number of token types; 0 for an encoder without them (DistilBERT).
        pad_id: int, the id of padding.
        seed: int, for the dropout.

    Call arguments:
        ids: int [B, T], with T at most `sequence_length`.
        token_type_ids: int [B, T], the segment of each token. Defaults to 0 everywhere.
        training: bool, whether dropout is on.

    Returns:
        float [B, T, D].

    Raises:
        ValueError: for sizes out of range, and for token types given to an encoder that has none.

    Example:

    >>> import numpy as np
    >>> from keras_attention.models import TextEncoder
    >>> encoder = TextEncoder(
    ...     vocabulary_size=100, sequence_length=16, num_layers=2, num_heads=4, hidden_dim=32, intermediate_dim=64
    ... )
    >>> encoder(np.array([[2, 17, 5, 3, 0, 0]])).shape
    TensorShape([1, 6, 32])

    Reference: Devlin et al. 2019, BERT, section 3, https://arxiv.org/abs/1810.04805
    """

    def __init__(
        self,
        vocabulary_size,
        sequence_length,
        num_layers,
        num_heads,
        hidden_dim,
        intermediate_dim,
        dropout=0.1,
        activation="gelu",
        norm="post",
        layer_norm_epsilon=1e-12,
        num_segments=2,
        pad_id=0,
        seed=None,
        **kwargs,
    ):
        if hidden_dim % num_heads:
            raise ValueError(
                f"`num_heads` must divide `hidden_dim`. Received: num_heads={num_heads}, hidden_dim={hidden_dim}"
            )
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.sequence_length = sequence_length
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.dropout = dropout
        self.activation = get_activation(activation)
        self.norm = norm
        self.layer_norm_epsilon = layer_norm_epsilon
        self.num_segments = num_segments
        self.pad_id = pad_id
        self.seed = seed

        common = {"dtype": self.dtype_policy}
        initializer = keras.initializers.TruncatedNormal(stddev=0.02)
        self.embedding = TokenAndPositionEmbedding(
            vocabulary_size,
            sequence_length,
            hidden_dim,
            pad_id=pad_id,
            embeddings_initializer=initializer,
            name="embedding",
            **common,
        )
        if num_segments:
            self.segment_embedding = keras.layers.Embedding(
                num_segments, hidden_dim, embeddings_initializer=initializer.clone(), name="segment_embedding", **common
            )
        self.embedding_norm = keras.layers.LayerNormalization(
            epsilon=layer_norm_epsilon, name="embedding_norm", **common
        )
        self.embedding_dropout = keras.layers.Dropout(
            dropout, seed=derive_seed(seed, "embedding"), name="embedding_dropout", **common
        )
        self.blocks = [
            TransformerBlock(
                num_heads,
                intermediate_dim,
                dropout=dropout,
                activation=activation,
                norm=norm,
                layer_norm_epsilon=layer_norm_epsilon,
                kernel_initializer=initializer.clone(),
                seed=derive_seed(seed, "block", i),
                name=f"block_{i}",
                **common,
            )
            for i in range(num_layers)
        ]
        if norm == "pre":
            self.output_norm = keras.layers.LayerNormalization(epsilon=layer_norm_epsilon, name="output_norm", **common)

    def build(self, ids_shape, token_type_ids_shape=None):
        states_shape = (*ids_shape, self.hidden_dim)
        self.embedding.build(ids_shape)
        if self.num_segments:
            self.segment_embedding.build(ids_shape)
        self.embedding_norm.build(states_shape)
        for block in self.blocks:
            block.build(states_shape)
        if self.norm == "pre":
            self.output_norm.build(states_shape)

    def call(self, ids, token_type_ids=None, training=None):
        x = self.embedding(ids)
        if self.num_segments:
            segments = ops.zeros_like(ids) if token_type_ids is None else token_type_ids
            x = x + self.segment_embedding(segments)
        elif token_type_ids is not None:
            raise ValueError("an encoder with `num_segments=0` takes no `token_type_ids`.")
        x = self.embedding_dropout(self.embedding_norm(x), training=training)
        set_keras_mask(x, self.compute_mask(ids))  # a sum of tensors carries no mask
        for block in self.blocks:
            x = block(x, training=training)
        return self.output_norm(x) if self.norm == "pre" else x

    def compute_mask(self, ids, previous_mask=None):
        return self.embedding.compute_mask(ids)

    def compute_output_shape(self, ids_shape, token_type_ids_shape=None):
        return (*ids_shape, self.hidden_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "sequence_length": self.sequence_length,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "hidden_dim": self.hidden_dim,
            "intermediate_dim": self.intermediate_dim,
            "dropout": self.dropout,
            "activation": serialize_activation(self.activation),
            "norm": self.norm,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "num_segments": self.num_segments,
            "pad_id": self.pad_id,
            "seed": self.seed,
        }
