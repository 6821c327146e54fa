"""One tile of chunked attention: which rows and keys it has, and how its scores become weights."""

from typing import NamedTuple

import keras
import tensorflow as tf

from keras_attention import masks
from keras_attention.biases import ExplicitBias
from keras_attention.ops.dense import MASKED_SCORE
from keras_attention.ops.scores import additive_scores

# Scores in one tile, 32 MB in float32: small enough for four of its kind to be nothing beside the model, large enough
# for the matrix products to run at full speed.
TILE_ELEMENTS = 2**23


def heads_first(x, dtype):
    """[B, T, N, H] -> [B, N, T, H]."""
    return tf.transpose(tf.cast(x, dtype), (0, 2, 1, 3))


class Tile:
    """What is the same for every tile of one call: sizes, the mask, and how scores become weights."""

    def __init__(self, a):
        self.dtype = tf.float64 if a.query.dtype == tf.float64 else tf.float32
        shape = tf.shape(a.query)
        self.batch, self.length, self.key_length = shape[0], shape[1], tf.shape(a.key)[1]
        self.heads, self.kv_heads, self.size = a.query.shape[2], a.key.shape[2], a.query.shape[3]
        self.groups = self.heads // self.kv_heads
        self.mask, self.scale, self.soft_cap = a.mask, a.scale, a.soft_cap
        self.has_additive, self.has_sinks = a.additive is not None, a.sinks is not None
        self._sort(a.mask, a.bias)
        terms = (*self.matrices, *self.key_biases, *self.biases)
        own = [weights for weights in (a.additive, a.sinks) if weights is not None]
        # Tensors, not variables, which a custom gradient would want to return apart.
        self.parameters = [tf.convert_to_tensor(p) for p in (*[p for t in terms for p in t.parameters], *own)]
        self.dropped = min(round(256 * a.dropout), 255)
        self.seed = keras.random.randint((2,), 0, 2**31 - 1, seed=a.seed) if self.dropped else None
        self.rows = self._rows()
        self.count = -(-self.length // self.rows)

    def _sort(self, mask, bias):
        """Mask and bias by how they are computed: in the product, from matrices of bias, from anything else."""
        # What is added in the product would come before a soft cap, and additive scores are no product.
        in_product = self.soft_cap is None and not self.has_additive
        mask_terms = [] if mask is None else mask.terms()
        self.key_masks = [t for t in mask_terms if in_product and isinstance(t, masks.Padding) and t.axis == "key"]
        self.tile_mask = masks.combine(*[t for t in mask_terms if t not in self.key_masks])
        # A bias that is a matrix over the rows gets its gradient row by row; any other, summed over the tiles.
        terms = [] if bias is None else bias.terms()
        explicit = [t for t in terms if isinstance(t, ExplicitBias)]
        self.matrices = [t for t in explicit if t.tensor.shape[-2] != 1]
        self.key_biases = [
            t
            for t in explicit
            if in_product
            and t not in self.matrices
            and t.tensor.shape[1] in (1, self.kv_heads)
            and t.tensor.shape[-1] != 1
        ]
        self.biases = [t for t in terms if t not in self.matrices and t not in self.key_biases]

    def split(self, parameters):
        """(matrices, biases of keys, all others) of the parameters."""
        first, second = len(self.matrices), len(self.matrices) + len(self.key_biases)
        return parameters[:first], parameters[first:second], parameters[second:]

    def extended(self, query, key, parameters):
        """Queries [B, N, T, H], scaled, and keys [B, K, S, H]; both with one more feature if keys have a bias."""
        queries, keys = heads_first(query, self.dtype), heads_first(key, self.dtype)
        if not self.has_additive:
            queries *= tf.cast(self.scale, self.dtype)
        if not self.key_masks and not self.key_biases:
            return queries, keys
        added = tf.zeros((self.batch, self.kv_heads, 1, self.key_length), self.dtype)
        for bias in self.split(parameters)[1]:
            added += tf.cast(bias, self.dtype)
        for mask in self.key_masks:
            added = tf.where(mask.tensor[:, None, None, :], added, tf.constant(MASKED_SCORE, self.dtype))
        added = tf.transpose(added, (0, 1, 3, 2))
        return tf.concat([queries, tf.ones_like(queries[..., :1])], -1), tf.concat([keys, added], -1)

    def _rows(self):
        """How many queries a tile has. A mask with a short span of keys allows many."""
        between = self.size if self.has_additive else 1

        def fitting(span):
            return tf.maximum(TILE_ELEMENTS // tf.maximum(self.batch * self.heads * between * span, 1), 1)

        rows = fitting(self.key_length)
        if self.mask is not None:
            middle = self.length // 2
            start, stop = self.mask.keys(middle, middle + 1, self.key_length)
            # Half of a tile's keys at most are there for its first or its last row only.
            rows = tf.maximum(rows, tf.minimum(stop - start, fitting(2 * (stop - start))))
        return tf.clip_by_value(rows, 1, tf.maximum(self.length, 1))

    def span(self, index):
        """(first row, row after the last, first key, key after the last) of a tile."""
        start = index * self.rows
        stop = tf.minimum(start + self.rows, self.length)
        first, last = (0, self.key_length) if self.mask is None else self.mask.keys(start, stop, self.key_length)
        return start, stop, tf.convert_to_tensor(first), tf.convert_to_tensor(last)

    def fold(self, x):
        """[B, N, t, x] -> [B, K, G t, x]: the queries that share keys become rows of one matrix product."""
        return x if self.groups == 1 else tf.reshape(x, (self.batch, self.kv_heads, -1, tf.shape(x)[-1]))

    def unfold(self, x):
        """[B, K, G t, x] -> [B, N, t, x]."""
        if self.groups == 1:
            return x
        shape = tf.shape(x)
        return tf.reshape(x, (self.batch, self.heads, shape[2] // self.groups, shape[3]))

    def positions(self, span):
        start, stop, first, last = span
        return tf.range(start, stop), tf.range(first, last)

    def weights(self, index, query, key, parameters):
        """The softmax of a tile's scores, and what else both passes need to know of it."""
        span = self.span(index)
        rows, columns = self.positions(span)
        matrices, _, others = self.split(parameters)
        scores = self.scores(query, key, others)
        slope = None
        if self.soft_cap is not None:
            capped = tf.tanh(scores / self.soft_cap)
            slope = 1 - tf.square(capped)
            scores = self.soft_cap * capped
        for matrix in matrices:
            scores += tf.cast(self.matrix_tile(matrix, span), self.dtype)
        for term, own in self.bias_parameters(others):
            scores += tf.cast(term.tile(rows, columns, *own), self.dtype)
        if self.tile_mask is not None:
            scores = tf.where(self.tile_mask.tile(rows, columns), scores, tf.constant(MASKED_SCORE, self.dtype))
        attending = None
        if self.mask is not None:
            attending = tf.reduce_any(self.mask.tile(rows, columns), axis=-1, keepdims=True)
        weights = tf.nn.softmax(scores)
        share = None
        if self.has_sinks:
            # The largest weight is exp(its score - the sum's logarithm).
            total = tf.reduce_max(scores, -1, keepdims=True) - tf.math.log(tf.reduce_max(weights, -1, keepdims=True))
            share = tf.sigmoid(total - tf.cast(others[-1], self.dtype)[:, None, None])
        kept = self._kept(index, tf.shape(scores)) if self.dropped else None
        return Weights(weights, slope, attending, share, kept)

    def scores(self, query, key, others):
        """[B, N, t, s] from [B, N, t, H] and [B, K, s, H]."""
        if self.has_additive:
            vector = tf.cast(others[-2 if self.has_sinks else -1], self.dtype)
            return additive_scores(query, tf.transpose(key, (0, 1, 3, 2)), vector) * self.scale
        return self.unfold(tf.matmul(self.fold(query), key, transpose_b=True))

    @staticmethod
    def matrix_tile(matrix, span):
        start, stop, first, last = span
        return matrix[:, :, start:stop] if matrix.shape[-1] == 1 else matrix[:, :, start:stop, first:last]

    def bias_parameters(self, others):
        """Each bias that has a tile of its own, with its parameters."""
        rest = list(others)
        for term in self.biases:
            own = [rest.pop(0) for _ in term.parameters]
            yield term, own

    def _kept(self, index, shape):
        """Which weights survive the dropout: one random byte each, as random numbers are what dropout costs."""
        words = tf.concat([shape[:-1], [-(-shape[-1] // 4)]], axis=0)
        seed = tf.stack([self.seed[0], self.seed[1] + index])
        random = tf.random.stateless_uniform(words, seed, minval=None, maxval=None, dtype=tf.uint32)
        random = tf.reshape(tf.bitcast(random, tf.uint8), tf.concat([shape[:-1], [-1]], axis=0))
        return random[..., : shape[-1]] >= tf.constant(self.dropped, tf.uint8)

    @property
    def kept_scale(self):
        return 256 / (256 - self.dropped)


class Weights(NamedTuple):
    """The weights of a tile, [B, N, t, s], and what is None where it does not apply.

    Attributes:
        softmax: before dropout and sinks.
        slope: the soft cap's derivative.
        attending: bool [B or 1, N or 1, t, 1], which queries have any key.
        share: [B, N, t, 1], what the sinks leave of the softmax.
        kept: bool, which weights the dropout leaves.
    """

    softmax: tf.Tensor
    slope: tf.Tensor | None
    attending: tf.Tensor | None
    share: tf.Tensor | None
    kept: tf.Tensor | None

    def used(self):
        """The softmax after dropout, not yet scaled."""
        return self.softmax if self.kept is None else tf.where(self.kept, self.softmax, zero(self.softmax))

    def to_rows(self, x, kept_scale):
        """x [B, N, t, H], values or gradients of the rows, with what all weights of a row are multiplied with."""
        if self.kept is not None:
            x *= kept_scale
        if self.share is not None:
            x *= self.share
        return x if self.attending is None else tf.where(self.attending, x, zero(x))


def zero(x):
    """The scalar in the type of `x`, for `tf.where`."""
    return tf.zeros((), x.dtype)
