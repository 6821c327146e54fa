"""Batches of sequences of like lengths, and how much of batches is padding."""

import tensorflow as tf

from keras_attention.training.arguments import is_int


def bucket_by_length(dataset, boundaries, tokens_per_batch, length_of=None, padding_values=None):
    """Batches rows with others of about their length, so that little is padded.

    Each bucket fills its own batches, padded to their longest row. A batch of a bucket has as many rows as make
    `tokens_per_batch` positions at the bucket's boundary, so that all batches take about the same time and memory; rows
    longer than the last boundary come alone. At the end of a pass the buckets give what they have.

    The same rows in the same order give the same batches: `training.fit` resumes within them.

    Args:
        dataset: `tf.data.Dataset` of rows, whatever their structure.
        boundaries: list of int, increasing: the greatest length in each bucket.
        tokens_per_batch: int, at least the last boundary.
        length_of: function of a row, called as that of `dataset.map`, that returns its length, int32. Defaults to the
            greatest length of its components of rank 1.
        padding_values: as in `tf.data.Dataset.padded_batch`. Defaults to zeros and empty strings.

    Returns:
        `tf.data.Dataset` of batches.

    Raises:
        ValueError: if the boundaries or the number of tokens make no sense, or if a row has no component of rank 1.

    Example:

    >>> import tensorflow as tf
    >>> from keras_attention.training import bucket_by_length, padding_share
    >>> rows = tf.data.Dataset.from_tensor_slices(tf.ragged.constant([[1], [1, 2, 3, 4], [2, 3], [5, 6, 7]]))
    >>> batches = bucket_by_length(rows.map(lambda row: row), boundaries=[2, 4], tokens_per_batch=8)
    >>> [batch.shape.as_list() for batch in batches]
    [[2, 4], [2, 2]]
    >>> round(padding_share(batches), 2)
    0.17

    Reference: https://www.tensorflow.org/api_docs/python/tf/data/Dataset#bucket_by_sequence_length
    """
    boundaries = list(boundaries)
    increasing = all(a < b for a, b in zip([0, *boundaries], boundaries, strict=False))
    if not boundaries or not all(map(is_int, boundaries)) or not increasing:
        raise ValueError(f"`boundaries` must be positive, increasing integers. Received: boundaries={boundaries!r}")
    if not is_int(tokens_per_batch) or tokens_per_batch < boundaries[-1]:
        raise ValueError(
            "`tokens_per_batch` must be an integer, and hold a row of the last boundary at least. Received: "
            f"tokens_per_batch={tokens_per_batch!r} with boundaries={boundaries!r}"
        )
    return dataset.bucket_by_sequence_length(
        length_of or _length_of_longest(dataset.element_spec),
        bucket_boundaries=[boundary + 1 for boundary in boundaries],  # TensorFlow's are the first length beyond
        bucket_batch_sizes=[*(tokens_per_batch // boundary for boundary in boundaries), 1],
        padding_values=padding_values,
    )


def padding_share(batches, pad_id=0):
    """The share of the positions of all batches that is padding, to compare ways of batching by.

    Args:
        batches: `tf.data.Dataset` of int [B, T], the ids alone; one pass is read.
        pad_id: int.

    Returns:
        float from 0 to 1.

    Raises:
        ValueError: if there are no positions.
    """

    def add(counts, ids):
        return counts[0] + tf.math.count_nonzero(tf.equal(ids, pad_id)), counts[1] + tf.size(ids, out_type=tf.int64)

    zero = tf.constant(0, tf.int64)
    padding, positions = batches.reduce((zero, zero), add)
    if not int(positions):
        raise ValueError("`batches` must have a position at least. Received: batches with none")
    return int(padding) / int(positions)


def _length_of_longest(spec):
    if not any(part.shape.rank == 1 for part in tf.nest.flatten(spec)):
        raise ValueError(
            "`length_of` must be given for rows without a component of rank 1. Received: length_of=None with "
            f"`dataset` of {spec}"
        )

    def length_of(*row):
        return tf.reduce_max([tf.shape(part)[0] for part in tf.nest.flatten(row) if part.shape.rank == 1])

    return length_of
