"""A stack of encoder blocks."""

import keras

from keras_attention.layers.transformer_stack import TransformerStack


@keras.saving.register_keras_serializable("keras_attention")
class TransformerEncoder(TransformerStack):
    """`num_layers` blocks of bidirectional self-attention and feed-forward network, one after another.

    With `norm="pre"` a normalisation follows the last block.

    Masking: padding is taken from the mask that `x` carries; the output carries it too.

    Args:
        num_layers: int, the number of blocks.
        num_heads: int, N. Must divide D.
        intermediate_dim: int, the inner size of the feed-forward networks.
        **kwargs: the other arguments of `TransformerBlock`, by name, for every block; each is an attribute too. Of a
            `seed` each block makes its own.

    Call arguments:
        x: float [B, T, D].
        attention_mask: bool or 0/1 numbers, [T, T], [B, T, T] or [B, N, T, T].
        return_attention_scores: bool. Also return the attention weights.
        training: bool, whether dropout is on.

    Returns:
        float [B, T, D]; with `return_attention_scores`, also a list with a dict for each block: "self" [B, N, T, T].

    Raises:
        ValueError: if `num_layers` is not a positive integer, or for what `TransformerBlock` refuses.

    Example:

    >>> import numpy as np
    >>> from keras_attention.layers import TransformerEncoder
    >>> encoder = TransformerEncoder(num_layers=2, num_heads=4, intermediate_dim=32, norm="pre", activation="swiglu")
    >>> encoder(np.zeros((2, 5, 16), "float32")).shape
    TensorShape([2, 5, 16])

    Reference: Vaswani et al. 2017, Attention Is All You Need, section 3.1, https://arxiv.org/abs/1706.03762
    """

    def __init__(self, num_layers, num_heads, intermediate_dim, **kwargs):
        super().__init__(
            num_layers,
            num_heads=num_heads,
            intermediate_dim=intermediate_dim,
            causal=False,
            cross_attention=False,
            **kwargs,
        )

    def build(self, x_shape):
        self._build_blocks(x_shape)

    def call(self, x, attention_mask=None, return_attention_scores=False, training=None):
        return self._apply_blocks(
            x,
            attention_mask=attention_mask,
            return_attention_scores=return_attention_scores,
            training=training,
        )
