"""A sequence to one vector, or a few, by attention from learned queries."""

import keras
from keras import initializers, ops

from keras_attention.layers.multi_head_attention import MultiHeadAttention


@keras.saving.register_keras_serializable("keras_attention")
class AttentionPooling(keras.layers.Layer):
    """Learned queries attend over a sequence: a weighted mean that learns what to weigh.

    It is the attention of the paper's PMA, without the residual and the feed-forward network around it.

    Masking: padding takes no part, so the result does not depend on it; the output carries no mask.

    Args:
        num_heads: int, N.
        key_dim: int, H, the size of a head.
        num_queries: int, Q, the number of vectors that a sequence becomes.
        dropout: float in [0, 1), the share of attention weights that are dropped in training.
        use_bias: bool, whether the projections have a bias.
        kernel_initializer, bias_initializer: initializers of the projections; the former also of the queries.
        seed: int, for the dropout.

    Call arguments:
        inputs: float [B, T, D].
        mask: bool [B, T], True at real positions. Defaults to the mask that `inputs` carries.
        return_attention_scores: bool. Also return the attention weights.
        training: bool, whether dropout is on.

    Returns:
        float [B, D] for one query and [B, Q, D] for several; with `return_attention_scores`, also the attention
        weights, [B, N, Q, T].

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> import numpy as np
    >>> from keras_attention.layers import AttentionPooling
    >>> AttentionPooling(num_heads=4, key_dim=8)(np.zeros((2, 5, 32), "float32")).shape
    TensorShape([2, 32])

    Reference: Lee et al. 2019, Set Transformer, section 3.2, https://arxiv.org/abs/1810.00825
    """

    def __init__(
        self,
        num_heads,
        key_dim,
        num_queries=1,
        dropout=0.0,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        seed=None,
        **kwargs,
    ):
        if not isinstance(num_queries, int) or isinstance(num_queries, bool) or num_queries <= 0:
            raise ValueError(f"`num_queries` must be a positive integer. Received: num_queries={num_queries!r}")
        super().__init__(**kwargs)
        self.supports_masking = True
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.num_queries = num_queries
        self.dropout = dropout
        self.use_bias = use_bias
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.seed = seed
        self.attention = MultiHeadAttention(
            num_heads,
            key_dim,
            dropout=dropout,
            use_bias=use_bias,
            kernel_initializer=self.kernel_initializer.clone(),
            bias_initializer=self.bias_initializer.clone(),
            seed=seed,
            dtype=self.dtype_policy,
            name="attention",
        )

    def build(self, inputs_shape):
        self.queries = self.add_weight(
            shape=(self.num_queries, inputs_shape[-1]), initializer=self.kernel_initializer.clone(), name="queries"
        )
        self.attention.build((inputs_shape[0], self.num_queries, inputs_shape[-1]), inputs_shape)

    def call(self, inputs, mask=None, return_attention_scores=False, training=None):
        queries = ops.cast(self.queries, inputs.dtype)
        pooled = self.attention(
            ops.broadcast_to(queries, (ops.shape(inputs)[0], *queries.shape)),
            inputs,
            value_mask=mask,
            return_attention_scores=return_attention_scores,
            training=training,
        )
        pooled, scores = pooled if return_attention_scores else (pooled, None)
        if self.num_queries == 1:
            pooled = ops.squeeze(pooled, axis=1)
        return (pooled, scores) if return_attention_scores else pooled

    def compute_mask(self, inputs, previous_mask=None):
        return None

    def compute_output_spec(self, inputs, mask=None, return_attention_scores=False, training=None):
        batch, length, _ = inputs.shape
        pooled = keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=self.compute_dtype)
        if not return_attention_scores:
            return pooled
        scores_shape = (batch, self.num_heads, self.num_queries, length)
        return pooled, keras.KerasTensor(scores_shape, dtype=self.compute_dtype)

    def compute_output_shape(self, inputs_shape):
        batch, _, size = inputs_shape
        return (batch, size) if self.num_queries == 1 else (batch, self.num_queries, size)

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "num_queries": self.num_queries,
            "dropout": self.dropout,
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "seed": self.seed,
        }
