"""Attention over any axes of a tensor, brought to attention over one."""

from math import prod

from keras import ops


class AttentionAxes:
    """Folds tensors so that the axes attended over become one axis T and all other free axes join the batch.

    Args:
        rank: int, the rank of the layer's inputs, features included.
        axes: tuple of int, the axes attended over; None for all but batch and features.

    Raises:
        ValueError: if an axis is the batch, the features, out of range or named twice.
    """

    def __init__(self, rank, axes=None):
        if axes is None:
            self.attended = tuple(range(1, rank - 1))
        else:
            self.attended = tuple(axis + rank if axis < 0 else axis for axis in axes)
            if len(set(self.attended)) != len(self.attended) or not all(0 < axis < rank - 1 for axis in self.attended):
                raise ValueError(
                    f"`attention_axes` must be different axes between the batch and the features of inputs of rank "
                    f"{rank}. Received: attention_axes={tuple(axes)}"
                )
        self.batch = tuple(axis for axis in range(1, rank - 1) if axis not in self.attended)
        self.is_plain = self.attended == (1,) and not self.batch

    def fold(self, x):
        """[B, free axes..., trailing...] -> [B', T, trailing...], whatever stands after the free axes."""
        if self.is_plain:
            return x
        trailing = range(1 + len(self.batch) + len(self.attended), len(x.shape))
        x = ops.transpose(x, (0, *self.batch, *self.attended, *trailing))
        return ops.reshape(x, (-1, self._length(x), *[ops.shape(x)[axis] for axis in trailing]))

    def _length(self, transposed):
        first = 1 + len(self.batch)
        shape = ops.shape(transposed)
        return prod(shape[first + i] for i in range(len(self.attended)))

    def unfold(self, x, like):
        """[B', T, trailing...] -> [B, free axes of `like`..., trailing...]."""
        if self.is_plain:
            return x
        shape = ops.shape(like)
        order = (0, *self.batch, *self.attended)
        x = ops.reshape(x, (*[shape[axis] for axis in order], *ops.shape(x)[2:]))
        inverse = [order.index(axis) for axis in range(len(order))]
        return ops.transpose(x, (*inverse, *range(len(order), len(x.shape))))

    def unfold_scores(self, scores, query, key):
        """[B', N, T, S] -> [B, batch axes..., N, query's attended axes..., key's attended axes...]."""
        if self.is_plain:
            return scores
        query_shape, key_shape = ops.shape(query), ops.shape(key)
        return ops.reshape(
            scores,
            (
                *[query_shape[axis] for axis in (0, *self.batch)],
                scores.shape[1],
                *[query_shape[axis] for axis in self.attended],
                *[key_shape[axis] for axis in self.attended],
            ),
        )

    def fold_mask(self, mask, query, key):
        """A mask that ends in the attended axes of query and key, and may lack those before -> [B' or 1, N or 1, T, S].

        Missing axes are put before the attended ones, as Keras does: [B, T, S] is a mask for every head.
        """
        if self.is_plain:
            return mask
        attended = 2 * len(self.attended)
        leading = 2 + len(self.batch)
        shape = ops.shape(mask)
        split = len(mask.shape) - attended
        if not 0 <= split <= leading:
            raise ValueError(
                f"`attention_mask` must have a rank from {attended} to {attended + leading} for these attention axes. "
                f"Received: shape {tuple(mask.shape)}"
            )
        mask = ops.reshape(mask, (*shape[:split], *[1] * (leading - split), *shape[split:]))
        query_shape, key_shape = ops.shape(query), ops.shape(key)
        free = [query_shape[axis] for axis in (0, *self.batch)]
        query_axes = [query_shape[axis] for axis in self.attended]
        key_axes = [key_shape[axis] for axis in self.attended]
        heads = ops.shape(mask)[leading - 1]
        mask = ops.broadcast_to(mask, (*free, heads, *query_axes, *key_axes))
        return ops.reshape(mask, (-1, heads, prod(query_axes), prod(key_axes)))
