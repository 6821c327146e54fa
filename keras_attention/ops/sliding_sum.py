"""A sum over spans of keys that move on, in time linear in the length."""

from typing import NamedTuple

import tensorflow as tf


class SlidingSum(NamedTuple):
    """The gradient of keys or values, to which tiles add over spans that move on: what lies behind is finished.

    Adding every tile to a whole [B, K, S, H] would take time in the square of the length, however short the spans.
    """

    finished: tf.TensorArray
    pending: tf.Tensor
    first: tf.Tensor

    @classmethod
    def start(cls, tile, like):
        batch, heads, _, size = like.shape
        finished = tf.TensorArray(
            tile.dtype, tile.count + 2, element_shape=(None, batch, heads, size), infer_shape=False
        )
        return cls(finished, tf.zeros((tile.batch, heads, 0, size), tile.dtype), tf.constant(0))

    def shapes(self):
        batch, heads, _, size = self.pending.shape
        return tf.TensorShape(None), tf.TensorShape((batch, heads, None, size)), tf.TensorShape([])

    def add(self, index, first, last, part):
        extended = self._extended(last)
        split = first - self.first
        finished = self._finish(index, extended[:, :, :split])
        return SlidingSum(finished, extended[:, :, split:] + part, first)

    def finish(self, tile):
        """[B, S, K, H], with zeros for keys that nobody attended to."""
        finished = self._finish(tile.count, self._extended(tile.key_length))
        empty = tf.zeros((0, tile.batch, *self.pending.shape[1:2], self.pending.shape[3]), tile.dtype)
        return tf.transpose(finished.write(tile.count + 1, empty).concat(), (1, 0, 2, 3))

    def _extended(self, last):
        missing = last - self.first - tf.shape(self.pending)[2]
        return tf.pad(self.pending, [[0, 0], [0, 0], [0, missing], [0, 0]])

    def _finish(self, index, part):
        return self.finished.write(index, tf.transpose(part, (2, 0, 1, 3)))
