"""Exact attention in linear memory on TensorFlow: one tile of queries after the other, recomputed in the backward pass.

A tile is some rows of the [T, S] plane, over the span of keys that its mask allows. The forward pass keeps the output
only. The backward pass computes a tile's weights again and turns the output's gradient into those of query, key, value
and bias (Dao et al. 2022, FlashAttention, appendix B.2, https://arxiv.org/abs/2205.14135; Rabe & Staats 2021,
https://arxiv.org/abs/2112.05682). Keys are not tiled: a row's softmax is then TensorFlow's own, which is faster on a
CPU than rescaling partial sums.
"""

import math
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_attention.biases import ExplicitBias

# Scores in one tile, 32 MB in float32: small enough for four of its kind to be nothing beside the model, large enough
# for the matrix products to run at full speed.
TILE_ELEMENTS = 2**23
_MASKED_SCORE = -1e30


def chunked_attention(query, key, value, bias, mask, scale, soft_cap, dropout, seed):
    """Attention as `keras_attention.ops.dot_product_attention` defines it, without its checks.

    Args:
        query: float [B, T, N, H].
        key: float [B, S, K, H], with K a divisor of N.
        value: float [B, S, K, H_v].
        bias: `keras_attention.biases.Bias` or None.
        mask: `keras_attention.masks.Mask` or None.
        scale: float.
        soft_cap: float or None.
        dropout: float in [0, 1), to the nearest 256th.
        seed: int or `keras.random.SeedGenerator`, for the dropout.

    Returns:
        [B, T, N, H_v] in the type of `query`.
    """
    dtype = query.dtype
    tile = _Tile(query, key, bias, mask, scale, soft_cap, dropout, seed)

    @tf.custom_gradient
    def attend(query, key, value, *parameters):
        queries, keys, values = (_heads_first(x, tile.dtype) for x in (query, key, value))
        output = _forward(tile, queries, keys, values, parameters)

        def gradient(output_gradient):
            gradients = _backward(tile, queries, keys, values, parameters, output, output_gradient)
            return tuple(tf.cast(g, x.dtype) for g, x in zip(gradients, (query, key, value, *parameters), strict=True))

        return tf.cast(tf.transpose(output, (0, 2, 1, 3)), dtype), gradient

    return attend(query, key, value, *tile.parameters)


def if_many_scores(query, key, limit, many, few):
    """Calls `many` if query and key give at least `limit` scores, else `few`; in the graph where that is not known."""
    sizes = (*query.shape[:3], key.shape[1])
    if None not in sizes:
        return many() if math.prod(sizes) >= limit else few()
    scores = tf.reduce_prod(tf.cast(tf.concat([tf.shape(query)[:3], tf.shape(key)[1:2]], axis=0), tf.int64))
    return tf.cond(scores >= limit, many, few)


def _heads_first(x, dtype):
    return tf.transpose(tf.cast(x, dtype), (0, 2, 1, 3))


class _Tile:
    """What is the same for every tile of one call: sizes, the mask, and how scores become weights."""

    def __init__(self, query, key, bias, mask, scale, soft_cap, dropout, seed):
        self.dtype = tf.float64 if query.dtype == tf.float64 else tf.float32
        shape = tf.shape(query)
        self.batch, self.length, self.key_length = shape[0], shape[1], tf.shape(key)[1]
        self.heads, self.kv_heads = query.shape[2], key.shape[2]
        self.groups = self.heads // self.kv_heads
        self.mask, self.scale, self.soft_cap = mask, scale, soft_cap
        # A bias that is a matrix over the rows gets its gradient row by row; any other, summed over the tiles.
        terms = [] if bias is None else bias.terms()
        self.matrices = [t for t in terms if isinstance(t, ExplicitBias) and t.tensor.shape[-2] != 1]
        self.biases = [t for t in terms if t not in self.matrices]
        # Tensors, not variables, which a custom gradient would want to return apart.
        self.parameters = [tf.convert_to_tensor(p) for t in (*self.matrices, *self.biases) for p in t.parameters]
        self.dropped = min(round(256 * dropout), 255)
        self.seed = keras.random.randint((2,), 0, 2**31 - 1, seed=seed) if self.dropped else None
        self.rows = self._rows()
        self.count = -(-self.length // self.rows)

    def _rows(self):
        """How many queries a tile has. A mask with a short span of keys allows many."""

        def fitting(span):
            return tf.maximum(TILE_ELEMENTS // tf.maximum(self.batch * self.heads * span, 1), 1)

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
        """The weights of a tile before dropout, the soft cap's derivative, who has any key, and which weights stay."""
        span = self.span(index)
        rows, columns = self.positions(span)
        scores = self.unfold(tf.matmul(self.fold(query * self.scale), key, transpose_b=True))
        slope = None
        if self.soft_cap is not None:
            capped = tf.tanh(scores / self.soft_cap)
            slope = 1 - tf.square(capped)
            scores = self.soft_cap * capped
        for matrix in parameters[: len(self.matrices)]:
            scores += tf.cast(self.matrix_tile(matrix, span), self.dtype)
        for term, own in self.bias_parameters(parameters):
            scores += tf.cast(term.tile(rows, columns, *own), self.dtype)
        attending = None
        if self.mask is not None:
            allowed = self.mask.tile(rows, columns)
            scores = tf.where(allowed, scores, tf.constant(_MASKED_SCORE, self.dtype))
            attending = tf.reduce_any(allowed, axis=-1, keepdims=True)
        kept = None
        if self.dropped:
            kept = self._kept(index, tf.shape(scores))
        return tf.nn.softmax(scores), slope, attending, kept

    @staticmethod
    def matrix_tile(matrix, span):
        start, stop, first, last = span
        return matrix[:, :, start:stop] if matrix.shape[-1] == 1 else matrix[:, :, start:stop, first:last]

    def bias_parameters(self, parameters):
        """Each bias that is no matrix, with its parameters."""
        rest = list(parameters[len(self.matrices) :])
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


def _loop(tile, body, state, shapes):
    """Runs `body(index, *state)` for every tile, one at a time, so that one tile's scores are in memory."""
    return tf.while_loop(
        lambda index, *_: index < tile.count,
        lambda index, *state: (index + 1, *body(index, *state)),
        (tf.constant(0), *state),
        shape_invariants=(tf.TensorShape([]), *shapes),
        parallel_iterations=1,
    )[1:]


def _forward(tile, queries, keys, values, parameters):
    def body(index, outputs):
        start, stop, first, last = tile.span(index)
        weights, _, attending, kept = tile.weights(index, queries[:, :, start:stop], keys[:, :, first:last], parameters)
        if kept is not None:
            weights = tf.where(kept, weights, tf.zeros((), tile.dtype))
        output = tile.unfold(tf.matmul(tile.fold(weights), values[:, :, first:last]))
        if kept is not None:
            output *= tile.kept_scale
        if attending is not None:
            output = tf.where(attending, output, tf.zeros((), tile.dtype))
        return (outputs.write(index, tf.transpose(output, (2, 0, 1, 3))),)

    size = values.shape[-1]
    outputs = _pieces(tile, (None, queries.shape[0], tile.heads, size))
    (outputs,) = _loop(tile, body, (outputs,), (tf.TensorShape(None),))
    output = tf.transpose(outputs.concat(), (1, 2, 0, 3))
    return tf.ensure_shape(output, (queries.shape[0], tile.heads, queries.shape[2], size))


def _pieces(tile, shape):
    return tf.TensorArray(tile.dtype, tile.count, element_shape=shape, infer_shape=False)


def _backward(tile, queries, keys, values, parameters, output, output_gradient):
    output_gradient = _heads_first(output_gradient, tile.dtype)
    delta = tf.reduce_sum(output * output_gradient, axis=-1, keepdims=True)
    matrices, others = parameters[: len(tile.matrices)], parameters[len(tile.matrices) :]

    def body(index, query_pieces, *state):
        span = tile.span(index)
        start, stop, first, last = span
        key_sum, value_sum = _SlidingSum(*state[:3]), _SlidingSum(*state[3:6])
        matrix_pieces, other_sums = state[6 : 6 + len(matrices)], state[6 + len(matrices) :]

        query, key, value = queries[:, :, start:stop], keys[:, :, first:last], values[:, :, first:last]
        weights, slope, attending, kept = tile.weights(index, query, key, parameters)
        into = output_gradient[:, :, start:stop]
        if attending is not None:
            into = tf.where(attending, into, tf.zeros((), tile.dtype))
        if kept is not None:
            into *= tile.kept_scale
        used = weights if kept is None else tf.where(kept, weights, tf.zeros((), tile.dtype))
        value_sum = value_sum.add(index, first, last, tf.matmul(tile.fold(used), tile.fold(into), transpose_a=True))
        weight_gradient = tile.unfold(tf.matmul(tile.fold(into), value, transpose_b=True))
        if kept is not None:
            weight_gradient = tf.where(kept, weight_gradient, tf.zeros((), tile.dtype))
        row_delta = delta[:, :, start:stop]
        if attending is not None:
            row_delta = tf.where(attending, row_delta, tf.zeros((), tile.dtype))
        score_gradient = weights * (weight_gradient - row_delta)

        matrix_pieces = [
            pieces.write(index, _matrix_rows(score_gradient, matrix, span))
            for pieces, matrix in zip(matrix_pieces, matrices, strict=True)
        ]
        added = _bias_gradients(tile, span, parameters, score_gradient)
        other_sums = [total + part for total, part in zip(other_sums, added, strict=True)]
        if slope is not None:
            score_gradient *= slope
        rows = tile.fold(score_gradient)
        query_gradient = tile.unfold(tf.matmul(rows, key)) * tile.scale
        key_sum = key_sum.add(index, first, last, tf.matmul(rows, tile.fold(query * tile.scale), transpose_a=True))
        query_pieces = query_pieces.write(index, tf.transpose(query_gradient, (2, 0, 1, 3)))
        return (query_pieces, *key_sum, *value_sum, *matrix_pieces, *other_sums)

    query_pieces = _pieces(tile, (None, queries.shape[0], *queries.shape[1:2], queries.shape[3]))
    key_sum, value_sum = _SlidingSum.start(tile, keys), _SlidingSum.start(tile, values)
    matrix_pieces = [_pieces(tile, (None, m.shape[0], m.shape[1], m.shape[3])) for m in matrices]
    other_sums = [tf.zeros(tf.shape(p), p.dtype) for p in others]
    unknown = tf.TensorShape(None)
    state = _loop(
        tile,
        body,
        (query_pieces, *key_sum, *value_sum, *matrix_pieces, *other_sums),
        (
            unknown,
            *key_sum.shapes(),
            *value_sum.shapes(),
            *[unknown for _ in matrices],
            *[total.shape for total in other_sums],
        ),
    )
    query_gradient = tf.transpose(state[0].concat(), (1, 0, 2, 3))
    key_gradient = _SlidingSum(*state[1:4]).finish(tile)
    value_gradient = _SlidingSum(*state[4:7]).finish(tile)
    matrix_gradients = [tf.transpose(p.concat(), (1, 2, 0, 3)) for p in state[7 : 7 + len(matrices)]]
    return query_gradient, key_gradient, value_gradient, *matrix_gradients, *state[7 + len(matrices) :]


class _SlidingSum(NamedTuple):
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
        return _SlidingSum(finished, extended[:, :, split:] + part, first)

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


def _matrix_rows(score_gradient, matrix, span):
    """The gradient of a matrix's rows [t, b, n, S], summed over the axes that it is broadcast along."""
    _, _, first, last = span
    rows = _sum_to(score_gradient, (*matrix.shape[:2], None, *matrix.shape[3:]))
    if matrix.shape[-1] != 1:
        rows = tf.pad(rows, [[0, 0], [0, 0], [0, 0], [first, tf.shape(matrix)[-1] - last]])
    return tf.transpose(tf.cast(rows, matrix.dtype), (2, 0, 1, 3))


def _sum_to(x, shape):
    """Sums over the axes that have size 1 in `shape`."""
    axes = [axis for axis, size in enumerate(shape) if size == 1]
    return tf.reduce_sum(x, axis=axes, keepdims=True) if axes else x


def _bias_gradients(tile, span, parameters, score_gradient):
    """The gradients of all parameters of biases that are no matrices, through each bias's own tile."""
    rows, columns = tile.positions(span)
    gradients = []
    for term, own in tile.bias_parameters(parameters):
        if own:
            with tf.GradientTape() as tape:
                tape.watch(own)
                bias = term.tile(rows, columns, *own)
            summed = tf.cast(_sum_to(score_gradient, bias.shape), bias.dtype)
            gradients += [tf.convert_to_tensor(g) for g in tape.gradient(bias, own, summed)]
    return gradients
