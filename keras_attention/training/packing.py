"""Short sequences packed into rows of one length, whole and apart from one another."""

import numpy as np
import tensorflow as tf

from keras_attention.training.reader_errors import remember


def pack(dataset, sequence_length, buffer_size=1000, too_long="refuse"):
    """Packs token sequences into rows of a fixed length, several a row and none of them split.

    Of so many sequences at a time each goes, the longest first, into the row with the least room that is enough for it
    (best-fit decreasing). On skewed lengths nearly nothing is left to padding, where a batch padded to its longest
    sequence is padding for the most part.

    A sequence must not see its neighbours. With the rows in batches [B, T], attention is kept within a sequence by
    `keras_attention.masks.Segments(segment_ids)` in a layer's call, or for a whole block by
    `attention_mask=segment_ids[:, :, None] == segment_ids[:, None, :]`. Learned positions are embedded from
    `positions`; rotary and relative positions need nothing, since they know distances only. A language model is trained
    on the next token where that is one of the same segment.

    The same sequences in the same order give the same rows: `training.fit` resumes within them.

    Args:
        dataset: `tf.data.Dataset` of int [T], any T. Empty sequences are left out.
        sequence_length: int, of the rows.
        buffer_size: int, the sequences that are packed together, and that are held at a time.
        too_long: what is done with a sequence longer than a row: "refuse" or "cut" off its end.

    Returns:
        `tf.data.Dataset` of dicts of [T] with T = `sequence_length`: `tokens`, in the sequences' dtype; `segment_ids`,
        int32, 1 for the first sequence of the row, 2 for the second, and 0 for padding; `positions`, int32, from 0 in
        each sequence, and 0 for padding. `.batch(B)` makes it [B, T].

    Raises:
        ValueError: if an argument is out of range; and while it is read, for a sequence that is too long and is not to
            be cut. There it comes out of `training.fit`, and of what is read within
            `keras_attention.training.reader_errors`.

    Example:

    >>> import tensorflow as tf
    >>> from keras_attention.training import pack
    >>> rows = tf.data.Dataset.from_tensor_slices(tf.ragged.constant([[7, 8], [1, 2, 3, 4], [5, 6, 9]]))
    >>> for row in pack(rows.map(lambda row: row), sequence_length=5):
    ...     print(row["tokens"].numpy(), row["segment_ids"].numpy(), row["positions"].numpy())
    [5 6 9 7 8] [1 1 1 2 2] [0 1 2 0 1]
    [1 2 3 4 0] [1 1 1 1 0] [0 1 2 3 0]

    Reference: Krell et al. 2021, Efficient Sequence Packing without Cross-contamination,
    https://arxiv.org/abs/2107.02027
    """
    for name, value in (("sequence_length", sequence_length), ("buffer_size", buffer_size)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
    if too_long not in ("refuse", "cut"):
        raise ValueError(f"`too_long` must be 'refuse' or 'cut'. Received: too_long={too_long!r}")
    spec = dataset.element_spec
    if not isinstance(spec, tf.TensorSpec) or spec.shape.rank != 1 or not spec.dtype.is_integer:
        raise ValueError(f"`dataset` must consist of integers of shape [T]. Received: dataset of {spec}")

    def pack_together(values, lengths):
        if too_long == "cut":
            values, lengths = _cut(values, lengths, sequence_length)
        elif lengths.size and lengths.max() > sequence_length:
            ids = np.split(values, np.cumsum(lengths)[:-1])[int(lengths.argmax())]
            raise remember(
                ValueError(
                    f"`dataset` must hold no sequence longer than `sequence_length` ({sequence_length}): cut them, or "
                    f"pass too_long='cut'. Received: one of {len(ids)} tokens, which begins with {ids[:8].tolist()}"
                )
            )
        return pack_arrays(values, lengths, sequence_length)

    def pack_buffer(sequences):
        if not isinstance(sequences, tf.RaggedTensor):  # where all have one length
            sequences = tf.RaggedTensor.from_tensor(sequences)
        dtypes = spec.dtype, tf.int32, tf.int32
        arrays = tf.numpy_function(pack_together, [sequences.values, sequences.row_lengths()], dtypes)
        rows = dict(zip(("tokens", "segment_ids", "positions"), arrays, strict=True))
        return {name: tf.ensure_shape(row, [None, sequence_length]) for name, row in rows.items()}

    # Not a generator over the dataset: one would begin a pass of it only when the first row is asked for, and a
    # resumed run counts the passes of what is shuffled as they are begun.
    return dataset.ragged_batch(buffer_size).map(pack_buffer).unbatch()


def best_fit(lengths, room):
    """Puts things of some lengths into rows of a room, longest first, each where it leaves the least room.

    Args:
        lengths: int array [n], each from 1 to `room`.
        room: int.

    Returns:
        list of lists of the things' numbers, one a row, the rows by the first thing in each.
    """
    rows, with_room = [], [[] for _ in range(room + 1)]
    open_rooms = 0  # bit r is set where a row has the room r
    for thing in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[thing])
        enough = open_rooms >> length
        if enough:
            left = length + (enough & -enough).bit_length() - 1
            row = with_room[left].pop()
            if not with_room[left]:
                open_rooms ^= 1 << left
        else:
            left, row = room, len(rows)
            rows.append([])
        rows[row].append(thing)
        if left > length:
            with_room[left - length].append(row)
            open_rooms |= 1 << (left - length)
    # By length the rows of a buffer would come as the longest sequences first.
    return sorted(rows, key=min)


def pack_arrays(values, lengths, room):
    """Packs the sequences of a buffer.

    Args:
        values: int array, the sequences one after the other.
        lengths: int array, of each sequence; at most `room`.
        room: int, T.

    Returns:
        list of arrays [R, T]: the tokens, the segments and the positions of R rows.
    """
    starts = np.cumsum(lengths) - lengths
    places = np.flatnonzero(lengths)
    rows = [places[row] for row in best_fit(lengths[places], room)]
    if not rows:
        return [np.zeros((0, room), dtype) for dtype in (values.dtype, np.int32, np.int32)]
    order = np.concatenate(rows)
    lengths_in_order = lengths[order]
    # Where each sequence begins among the positions of all rows: at its row, behind those before it.
    row_of = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    ends = np.cumsum(lengths_in_order)
    row_lengths = np.bincount(row_of, lengths_in_order, len(rows)).astype(np.int64)
    begins = row_of * room + ends - lengths_in_order - (np.cumsum(row_lengths) - row_lengths)[row_of]
    segments = np.concatenate([np.arange(1, len(row) + 1) for row in rows])

    within = np.arange(lengths_in_order.sum()) - np.repeat(ends - lengths_in_order, lengths_in_order)
    target = np.repeat(begins, lengths_in_order) + within
    source = np.repeat(starts[order], lengths_in_order) + within
    packed = []
    for array, dtype in (
        (values[source], values.dtype),
        (np.repeat(segments, lengths_in_order), np.int32),
        (within, np.int32),
    ):
        flat = np.zeros(len(rows) * room, dtype)
        flat[target] = array
        packed.append(flat.reshape(len(rows), room))
    return packed


def _cut(values, lengths, longest):
    starts = np.cumsum(lengths) - lengths
    within = np.arange(len(values)) - np.repeat(starts, lengths)
    return values[within < longest], np.minimum(lengths, longest)
