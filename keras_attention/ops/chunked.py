"""Exact attention in linear memory on TensorFlow: one tile of queries after the other, recomputed in the backward pass.

A tile is some rows of the [T, S] plane, over the span of keys that its mask allows. The forward pass keeps the output
only. The backward pass computes a tile's weights again and turns the output's gradient into those of query, key, value
and bias (Dao et al. 2022, FlashAttention, appendix B.2, https://arxiv.org/abs/2205.14135; Rabe & Staats 2021,
https://arxiv.org/abs/2112.05682). Keys are not tiled: a row's softmax is then TensorFlow's own, which is faster on a
CPU than rescaling partial sums.

What is added to a key's score for every query alike, a padding mask or a bias of one row, is one more feature of the
key, against a one in the query: it costs nothing beside the product, and its gradient comes with the key's.
"""

import math

import tensorflow as tf

from keras_attention.ops.chunked_tile import Tile, heads_first, zero
from keras_attention.ops.sliding_sum import SlidingSum


def chunked_attention(arguments):
    """Attention as `keras_attention.ops.dot_product_attention` defines it, tile by tile.

    Args:
        arguments: `keras_attention.ops.arguments.Arguments`.

    Returns:
        [B, T, N, H_v] in the type of the query.
    """
    if arguments.additive is not None:
        arguments = arguments.with_repeated_heads()  # a head's vector is its own
    dtype = arguments.query.dtype
    tile = Tile(arguments)

    @tf.custom_gradient
    def attend(query, key, value, *parameters):
        queries, keys = tile.extended(query, key, parameters)
        values = heads_first(value, tile.dtype)
        output = _forward(tile, queries, keys, values, parameters)

        def gradient(output_gradient):
            gradients = _backward(tile, queries, keys, values, parameters, output, output_gradient)
            return tuple(tf.cast(g, x.dtype) for g, x in zip(gradients, (query, key, value, *parameters), strict=True))

        return tf.cast(tf.transpose(output, (0, 2, 1, 3)), dtype), gradient

    return attend(arguments.query, arguments.key, arguments.value, *tile.parameters)


def if_many_scores(arguments, limit, many, few):
    """Calls `many` if the call's scores take at least `limit` numbers, else `few`; in the graph where not known."""
    query, key = arguments.query, arguments.key
    between = 1 if arguments.additive is None else query.shape[3]
    sizes = (*query.shape[:3], key.shape[1])
    if None not in sizes:
        return many() if math.prod(sizes) * between >= limit else few()
    scores = tf.reduce_prod(tf.cast(tf.concat([tf.shape(query)[:3], tf.shape(key)[1:2]], axis=0), tf.int64))
    return tf.cond(scores * between >= limit, many, few)


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
        weights = tile.weights(index, queries[:, :, start:stop], keys[:, :, first:last], parameters)
        output = tile.unfold(tf.matmul(tile.fold(weights.used()), values[:, :, first:last]))
        output = weights.to_rows(output, tile.kept_scale)
        return (outputs.write(index, tf.transpose(output, (2, 0, 1, 3))),)

    size = values.shape[-1]
    outputs = _pieces(tile, (None, queries.shape[0], tile.heads, size))
    (outputs,) = _loop(tile, body, (outputs,), (tf.TensorShape(None),))
    output = tf.transpose(outputs.concat(), (1, 2, 0, 3))
    return tf.ensure_shape(output, (queries.shape[0], tile.heads, queries.shape[2], size))


def _pieces(tile, shape):
    return tf.TensorArray(tile.dtype, tile.count, element_shape=shape, infer_shape=False)


def _backward(tile, queries, keys, values, parameters, output, output_gradient):
    output_gradient = heads_first(output_gradient, tile.dtype)
    delta = tf.reduce_sum(output * output_gradient, axis=-1, keepdims=True)
    matrices, key_biases, others = tile.split(parameters)

    def body(index, query_pieces, *state):
        span = tile.span(index)
        start, stop, first, last = span
        key_sum, value_sum = SlidingSum(*state[:3]), SlidingSum(*state[3:6])
        matrix_pieces, other_sums = state[6 : 6 + len(matrices)], state[6 + len(matrices) :]

        query, key, value = queries[:, :, start:stop], keys[:, :, first:last], values[:, :, first:last]
        weights = tile.weights(index, query, key, parameters)
        into = weights.to_rows(output_gradient[:, :, start:stop], tile.kept_scale)
        value_sum = value_sum.add(
            index, first, last, tf.matmul(tile.fold(weights.used()), tile.fold(into), transpose_a=True)
        )
        weight_gradient = tile.unfold(tf.matmul(tile.fold(into), value, transpose_b=True))
        if weights.kept is not None:
            weight_gradient = tf.where(weights.kept, weight_gradient, zero(weight_gradient))
        row_delta = weights._replace(kept=None).to_rows(delta[:, :, start:stop], 1)
        score_gradient = weights.softmax * (weight_gradient - row_delta)

        matrix_pieces = [
            pieces.write(index, _matrix_rows(score_gradient, matrix, span))
            for pieces, matrix in zip(matrix_pieces, matrices, strict=True)
        ]
        added = _bias_gradients(tile, span, others, score_gradient)
        if weights.slope is not None:
            score_gradient *= weights.slope
        query_gradient, key_gradient, vector_gradient = _score_gradients(tile, query, key, others, score_gradient)
        added += vector_gradient
        if tile.has_sinks:  # the sink's value is zero, and its weight what it takes from the others
            taken = delta[:, :, start:stop] - row_delta
            added.append(tf.cast(-tf.reduce_sum(taken, axis=(0, 2, 3)), others[-1].dtype))
        other_sums = [total + part for total, part in zip(other_sums, added, strict=True)]
        key_sum = key_sum.add(index, first, last, key_gradient)
        query_pieces = query_pieces.write(index, tf.transpose(query_gradient, (2, 0, 1, 3)))
        return (query_pieces, *key_sum, *value_sum, *matrix_pieces, *other_sums)

    query_pieces = _pieces(tile, (None, queries.shape[0], *queries.shape[1:2], queries.shape[3]))
    key_sum, value_sum = SlidingSum.start(tile, keys), SlidingSum.start(tile, values)
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
    query_gradient = tf.transpose(state[0].concat(), (1, 0, 2, 3))[..., : tile.size]
    if not tile.has_additive:
        query_gradient *= tf.cast(tile.scale, tile.dtype)
    key_gradient = SlidingSum(*state[1:4]).finish(tile)
    value_gradient = SlidingSum(*state[4:7]).finish(tile)
    matrix_gradients = [tf.transpose(p.concat(), (1, 2, 0, 3)) for p in state[7 : 7 + len(matrices)]]
    # What was added to a key's scores was the feature after the key's own.
    of_keys = tf.transpose(key_gradient[..., tile.size :], (0, 2, 3, 1))  # [B, K, 1, S]
    key_bias_gradients = [_sum_to(of_keys, bias.shape) for bias in key_biases]
    return (
        query_gradient,
        key_gradient[..., : tile.size],
        value_gradient,
        *matrix_gradients,
        *key_bias_gradients,
        *state[7 + len(matrices) :],
    )


def _score_gradients(tile, query, key, others, score_gradient):
    """The gradients of a tile's query and key, and a list with that of the additive vector if there is one."""
    if tile.has_additive:
        vector = others[-2 if tile.has_sinks else -1]
        with tf.GradientTape() as tape:
            tape.watch([query, key, vector])
            scores = tile.scores(query, key, others)
        *gradients, of_vector = tape.gradient(scores, [query, key, vector], score_gradient)
        return *gradients, [of_vector]
    rows = tile.fold(score_gradient)
    return tile.unfold(tf.matmul(rows, key)), tf.matmul(rows, tile.fold(query), transpose_a=True), []


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


def _bias_gradients(tile, span, others, score_gradient):
    """The gradients of all parameters of biases that have a tile of their own, through that tile."""
    rows, columns = tile.positions(span)
    gradients = []
    for term, own in tile.bias_parameters(others):
        if own:
            with tf.GradientTape() as tape:
                tape.watch(own)
                bias = term.tile(rows, columns, *own)
            summed = tf.cast(_sum_to(score_gradient, bias.shape), bias.dtype)
            gradients += [tf.convert_to_tensor(g) for g in tape.gradient(bias, own, summed)]
    return gradients
