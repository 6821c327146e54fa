"""A stack of decoder blocks."""

import keras

from keras_attention.layers.transformer_stack import TransformerStack


@keras.saving.register_keras_serializable("keras_attention")
class TransformerDecoder(TransformerStack):
    """`num_layers` blocks of causal self-attention, cross-attention if asked for, and feed-forward network.

    With `norm="pre"` a normalisation follows the last block.

    Masking: padding is taken from the masks that `x` and `context` carry; the output carries the mask of `x`.

    Args:
        num_layers: int, the number of blocks.
        num_heads: int, N. Must divide D.
        intermediate_dim: int, the inner size of the feed-forward networks.
        cross_attention: bool. Every block also attends to a `context`; without, it is a language model's stack.
        **kwargs: the other arguments of `TransformerBlock`, by name, for every block; each is an attribute too. Of a
            `seed` each block makes its own.

    Call arguments:
        x: float [B, T, D].
        context: float [B, S, D_c], what the cross-attention attends to.
        attention_mask: bool or 0/1 numbers, [T, T], [B, T, T] or [B, N, T, T], for the self-attention.
        context_mask: bool [B, S], True at real positions of the context. Defaults to the mask that `context` carries.
        return_attention_scores: bool. Also return the attention weights.
        training: bool, whether dropout is on.
        cache: what `make_cache` made or the last call returned: `x` is the next positions, and what they attend to is
            in the cache, the context too, which is then not given.

    Returns:
        float [B, T, D]; with `return_attention_scores`, also a list with a dict for each block: "self" [B, N, T, T]
        and, with cross-attention, "cross" [B, N, T, S]; with `cache`, also the cache for the next step.

    Raises:
        ValueError: if `num_layers` is not a positive integer, or for what `TransformerBlock` refuses.

    Example:

    >>> import numpy as np
    >>> from keras_attention.layers import TransformerDecoder
    >>> x, context = np.zeros((2, 5, 16), "float32"), np.zeros((2, 7, 24), "float32")
    >>> decoder = TransformerDecoder(num_layers=2, num_heads=4, intermediate_dim=32, cross_attention=True)
    >>> output, scores = decoder(x, context, return_attention_scores=True)
    >>> output.shape, len(scores), scores[0]["cross"].shape
    (TensorShape([2, 5, 16]), 2, TensorShape([2, 4, 5, 7]))

    Reference: Vaswani et al. 2017, Attention Is All You Need, section 3.1, https://arxiv.org/abs/1706.03762
    """

    def __init__(self, num_layers, num_heads, intermediate_dim, cross_attention=False, **kwargs):
        super().__init__(
            num_layers,
            num_heads=num_heads,
            intermediate_dim=intermediate_dim,
            causal=True,
            cross_attention=cross_attention,
            **kwargs,
        )
        self.cross_attention = cross_attention

    def build(self, x_shape, context_shape=None):
        self._build_blocks(x_shape, context_shape)

    def call(
        self,
        x,
        context=None,
        attention_mask=None,
        context_mask=None,
        return_attention_scores=False,
        training=None,
        *,
        cache=None,
    ):
        return self._apply_blocks(
            x,
            context,
            attention_mask=attention_mask,
            context_mask=context_mask,
            return_attention_scores=return_attention_scores,
            training=training,
            cache=cache,
        )

    def make_cache(self, batch_size, max_length, context=None, context_mask=None):
        """An empty cache for all blocks, to go on step by step; arguments and errors as `TransformerBlock.make_cache`.

        Returns:
            tuple of `keras_attention.layers.caches.BlockCache`, one a block.
        """
        return tuple(block.make_cache(batch_size, max_length, context, context_mask) for block in self.blocks)

    def get_config(self):
        return {**super().get_config(), "cross_attention": self.cross_attention}
