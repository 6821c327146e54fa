"""Transformer-XL: a decoder's stack that remembers the states of the segments before."""

from typing import NamedTuple

import keras
from keras import ops

from keras_attention.layers.keras_mask import get_keras_mask
from keras_attention.layers.transformer_stack import TransformerStack
from keras_attention.layers.transformer_xl_position import TransformerXLPosition


class SegmentMemory(NamedTuple):
    """What a `TransformerXL` remembers of the segments before.

    Attributes:
        states: tuple of float [B, M, D], what came into each block.
        valid: bool [B, M], False for padding and for what has not been.
    """

    states: tuple
    valid: object


@keras.saving.register_keras_serializable("keras_attention")
class TransformerXL(TransformerStack):
    """Causal blocks with relative positions that also attend to the last states of the segments before.

    A long text is read segment by segment. Each block attends to the last `memory_length` states that came into it
    before this segment, without a gradient to them, so that with every block the context reaches that much farther
    back.

    Masking: padding is taken from the mask that `x` carries and remembered with the states; the output carries it.

    Args:
        num_layers: int, the number of blocks.
        num_heads: int, N. Must divide D.
        intermediate_dim: int, the inner size of the feed-forward networks.
        memory_length: int, M, how many positions are remembered.
        **kwargs: the other arguments of `TransformerBlock`, by name, for every block; each is an attribute too. In
            `attention_options` the position is always a `TransformerXLPosition` of the block's own.

    Call arguments:
        x: float [B, T, D], the next segment.
        attention_mask: bool or 0/1 numbers, [T, M + T], [B, T, M + T] or [B, N, T, M + T]; without a memory M is 0.
        return_attention_scores: bool. Also return the attention weights.
        training: bool, whether dropout is on.
        memory: what `make_memory` made or the last call returned; without, the segment stands alone.

    Returns:
        float [B, T, D]; with `return_attention_scores`, also a list with a dict for each block: "self"
        [B, N, T, M + T]; with `memory`, also the memory for the next segment.

    Raises:
        ValueError: if `num_layers` or `memory_length` is no positive integer, or for what `TransformerBlock` refuses.

    Example:

    >>> import numpy as np
    >>> from keras_attention.layers import TransformerXL
    >>> layer = TransformerXL(num_layers=2, num_heads=4, intermediate_dim=32, memory_length=6)
    >>> text = np.random.default_rng(0).normal(size=(2, 12, 16)).astype("float32")
    >>> layer.build(text.shape)
    >>> memory = layer.make_memory(batch_size=2)
    >>> for segment in np.split(text, 3, axis=1):
    ...     output, memory = layer(segment, memory=memory)
    >>> output.shape, len(memory.states), memory.states[0].shape
    (TensorShape([2, 4, 16]), 2, TensorShape([2, 6, 16]))

    Reference: Dai et al. 2019, Transformer-XL, section 3, https://arxiv.org/abs/1901.02860
    """

    def __init__(self, num_layers, num_heads, intermediate_dim, memory_length, **kwargs):
        if not isinstance(memory_length, int) or isinstance(memory_length, bool) or memory_length <= 0:
            raise ValueError(f"`memory_length` must be a positive integer. Received: memory_length={memory_length!r}")
        super().__init__(
            num_layers,
            num_heads=num_heads,
            intermediate_dim=intermediate_dim,
            causal=True,
            cross_attention=False,
            **kwargs,
        )
        self.memory_length = memory_length

    def _options_of_block(self, attention_options):
        return {**attention_options, "position": TransformerXLPosition(dtype=self.dtype_policy)}

    def build(self, x_shape):
        self._size = x_shape[-1]
        self._build_blocks(x_shape)

    def make_memory(self, batch_size):
        """A memory of nothing.

        Args:
            batch_size: int or int32 scalar, B.

        Returns:
            `SegmentMemory`.

        Raises:
            ValueError: if the layer has not been built.
        """
        if not self.built:
            raise ValueError("the layer must be built before it makes a memory: call it once, or `build` it.")
        shape = (batch_size, self.memory_length, self._size)
        states = tuple(ops.zeros(shape, self.compute_dtype) for _ in self.blocks)
        return SegmentMemory(states, ops.zeros(shape[:2], "bool"))

    def call(self, x, attention_mask=None, return_attention_scores=False, training=None, *, memory=None):
        arguments = {
            "attention_mask": attention_mask,
            "return_attention_scores": return_attention_scores,
            "training": training,
        }
        if memory is None:
            return self._apply_blocks(x, **arguments)
        x_mask = get_keras_mask(x)
        x_mask = ops.ones(ops.shape(x)[:2], "bool") if x_mask is None else x_mask
        remembered, scores = [], []
        for block, states in zip(self.blocks, memory.states, strict=True):
            remembered.append(self._last(ops.stop_gradient(ops.concatenate([states, x], axis=1))))
            x = block(x, memory=states, memory_mask=memory.valid, **arguments)
            if return_attention_scores:
                x, block_scores = x
                scores.append(block_scores)
        if self.output_norm is not None:
            x = self.output_norm(x)
        memory = SegmentMemory(tuple(remembered), self._last(ops.concatenate([memory.valid, x_mask], axis=1)))
        return (x, scores, memory) if return_attention_scores else (x, memory)

    def _last(self, x):
        return x[:, -self.memory_length :]

    def get_config(self):
        config = {**super().get_config(), "memory_length": self.memory_length}
        config["attention_options"].pop("position")  # every block makes its own
        return config
