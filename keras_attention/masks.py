"""Mask specifications: which keys a query may attend to, composed with `&` and evaluated only where asked.

A specification is not a tensor. It answers for a tile of the [T, S] plane, given by the positions of the tile's queries
and keys, so that an implementation of attention that never holds the whole plane can use the same masks as one that
does. `Causal() & SlidingWindow(256)` is static and may be given to a layer's constructor or call, saved and loaded with
it. `Padding`, `Segments` and `Explicit` hold a tensor: they are made where the tensor exists, inside a layer's `call`.

Structure that comes from elsewhere, a parse or a knowledge graph, is a `Predicate` where it can be computed from
positions, and an `Explicit` mask (or a bias, see `keras_attention.biases`) where it is given as a matrix:

>>> import numpy as np
>>> from keras_attention.masks import Causal, Predicate
>>> same_clause = Predicate(lambda rows, columns: rows // 4 == columns // 4)     # clauses of four tokens
>>> tile = (Causal() & same_clause).tile(np.arange(4, 6), np.arange(8))
>>> tile.numpy().astype(int)
array([[0, 0, 0, 0, 1, 0, 0, 0],
       [0, 0, 0, 0, 1, 1, 0, 0]])
"""

import keras
from keras import ops

from keras_attention.specification import Specification

_PACKAGE = "keras_attention"


class Mask(Specification):
    """The base of all mask specifications."""

    def tile(self, rows, columns):
        """Says for one tile of the [T, S] plane who may attend to whom.

        Args:
            rows: int32 [t], the positions of the tile's queries; or [g, t], of several tiles at once.
            columns: int32 [s] or [g, s], the positions of the tile's keys.

        Returns:
            bool, broadcastable to [B, N, t, s] or [B, N, g, t, s]. True where the query may attend to the key.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `tile(rows, columns)`.")

    def keys(self, start, stop, length):
        """The keys that the queries from `start` up to `stop` may attend to lie in one span: which?

        What lies outside it is never computed. Neither end may go back as the queries go on.

        Args:
            start: int or int32 scalar, the first query.
            stop: int or int32 scalar, the query after the last.
            length: int or int32 scalar, S, the number of keys.

        Returns:
            (start, stop) of the keys, within 0 and `length`.
        """
        return 0, length

    def reach(self):
        """How far a query attends: (back, ahead), the most positions to each side; None where nothing bounds it."""
        return None, None

    def check(self, length, key_length):
        """Raises ValueError if the mask holds a tensor that is known not to fit T queries and S keys."""

    def terms(self):
        """The masks that this one is the conjunction of, list of `Mask`."""
        return [self]

    def __and__(self, other):
        if not isinstance(other, Mask):
            return NotImplemented
        return Both(self, other)


@keras.saving.register_keras_serializable(_PACKAGE)
class Both(Mask):
    """What two masks both allow; written `first & second`."""

    def __init__(self, first, second):
        self.first = first
        self.second = second

    def tile(self, rows, columns):
        return ops.logical_and(self.first.tile(rows, columns), self.second.tile(rows, columns))

    def check(self, length, key_length):
        for term in self.terms():
            term.check(length, key_length)

    def terms(self):
        return [*self.first.terms(), *self.second.terms()]

    def reach(self):
        back, ahead = zip(*(term.reach() for term in self.terms()), strict=True)
        return _bound(back), _bound(ahead)

    def keys(self, start, stop, length):
        (a, b), (c, d) = self.first.keys(start, stop, length), self.second.keys(start, stop, length)
        first = _largest(a, c)
        return first, _largest(first, _smallest(b, d))

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {"first": serialize(self.first), "second": serialize(self.second)}

    @classmethod
    def from_config(cls, config):
        deserialize = keras.saving.deserialize_keras_object
        return cls(deserialize(config["first"]), deserialize(config["second"]))

    def __hash__(self):
        return hash((type(self), self.first, self.second))

    def __repr__(self):
        return f"{self.first!r} & {self.second!r}"


@keras.saving.register_keras_serializable(_PACKAGE)
class Causal(Mask):
    """A query attends to keys at its own position and before (Vaswani et al. 2017, section 3.2.3).

    Aligned top-left, as in Keras: query 0 sees key 0, however many keys there are.
    """

    def tile(self, rows, columns):
        return rows[..., :, None] >= columns[..., None, :]

    def keys(self, start, stop, length):
        return 0, _smallest(stop, length)

    def reach(self):
        return None, 0


@keras.saving.register_keras_serializable(_PACKAGE)
class PrefixLM(Mask):
    """Causal, but everything attends to the first `length` positions (Raffel et al. 2020, T5, section 3.2.1).

    Args:
        length: int, not negative, of the prefix.

    Raises:
        ValueError: if `length` is negative or not an integer.
    """

    def __init__(self, length):
        if not isinstance(length, int) or isinstance(length, bool) or length < 0:
            raise ValueError(f"`length` must be an integer, not negative. Received: length={length!r}")
        self.length = length

    def tile(self, rows, columns):
        columns = columns[..., None, :]
        return ops.logical_or(rows[..., :, None] >= columns, columns < self.length)

    def keys(self, start, stop, length):
        return 0, _smallest(_largest(stop, self.length), length)

    def get_config(self):
        return {"length": self.length}


@keras.saving.register_keras_serializable(_PACKAGE)
class Predicate(Mask):
    """Whatever a function of the two positions says.

    Args:
        function: called with int32 [..., t, 1], the queries' positions, and int32 [..., 1, s], the keys'; returns bool
            of the shape that they broadcast to, or one broadcastable to [B, N, ..., t, s]. Register it with
            `keras.saving.register_keras_serializable` if a layer that holds the mask is to be saved.
    """

    def __init__(self, function):
        if not callable(function):
            raise ValueError(f"`function` must be callable. Received: function={function!r}")
        self.function = function

    def tile(self, rows, columns):
        return self.function(ops.convert_to_tensor(rows)[..., :, None], ops.convert_to_tensor(columns)[..., None, :])

    def get_config(self):
        return {"function": keras.saving.serialize_keras_object(self.function)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["function"]))

    def __hash__(self):
        return hash((type(self), self.function))


@keras.saving.register_keras_serializable(_PACKAGE)
class SlidingWindow(Mask):
    """A query attends to keys fewer than `size` positions away, to both sides (Beltagy et al. 2020, section 3.1).

    Args:
        size: int, positive. As Keras's `sliding_window`: it reaches `size - 1` positions to each side; `Causal() &
            SlidingWindow(size)` is the window that Mistral uses.

    Raises:
        ValueError: if `size` is not a positive integer.
    """

    def __init__(self, size):
        if not isinstance(size, int) or isinstance(size, bool) or size <= 0:
            raise ValueError(f"`size` must be a positive integer. Received: size={size!r}")
        self.size = size

    def tile(self, rows, columns):
        return ops.abs(rows[..., :, None] - columns[..., None, :]) < self.size

    def keys(self, start, stop, length):
        # Clamped at both ends, for queries that lie beyond the last key.
        first = _smallest(_largest(start - self.size + 1, 0), length)
        return first, _smallest(stop + self.size - 1, length)

    def reach(self):
        return self.size - 1, self.size - 1

    def get_config(self):
        return {"size": self.size}


class Shifted(Mask):
    """A mask of positions, for queries and keys that do not begin at position 0: those of a step with a cache.

    It belongs to one call of one layer.

    Args:
        mask: a `Mask` that holds no tensor.
        offset: int or int32 scalar, the position of the first query.
        key_positions: int32 [S], the position of each key. Defaults to 0, 1, ..., S - 1.

    Raises:
        ValueError: if `mask` holds a tensor, whose rows and columns are those of one call.
    """

    def __init__(self, mask, offset, key_positions=None):
        if any(isinstance(term, _TensorMask) for term in mask.terms()):
            raise ValueError(
                "a mask that holds a tensor knows nothing of the positions before this call: with a cache or a memory "
                "give the tensor as `attention_mask` or `value_mask`, or mask by positions only. "
                f"Received: mask={mask!r}"
            )
        self.mask = mask
        self.offset = offset
        self.key_positions = key_positions

    def tile(self, rows, columns):
        if self.key_positions is not None:
            columns = ops.take(self.key_positions, columns, axis=0)
        return self.mask.tile(rows + self.offset, columns)

    def keys(self, start, stop, length):
        if self.key_positions is not None:
            return 0, length
        return self.mask.keys(start + self.offset, stop + self.offset, length)

    def __eq__(self, other):
        return self is other

    def __hash__(self):
        return id(self)

    def __repr__(self):
        return f"Shifted({self.mask!r})"


class _TensorMask(Mask):
    """A mask that holds a tensor, and so belongs to one call of one layer."""

    def __init__(self, tensor, dtype="bool"):
        if isinstance(tensor, keras.KerasTensor):
            raise ValueError(
                f"{type(self).__name__} cannot hold a symbolic Keras tensor: the functional model would keep the "
                "placeholder and fail when it runs. Make it inside a layer's `call`, or pass the tensor to the layer "
                f"as `attention_mask`, `query_mask` or `value_mask`. Received: {tensor}"
            )
        self.tensor = ops.cast(tensor, dtype)

    def get_config(self):
        raise ValueError(
            f"{type(self).__name__} holds a tensor and cannot be saved. Pass the tensor to the layer as "
            f"`attention_mask`, `query_mask` or `value_mask` instead. Received: {self!r}"
        )

    def __eq__(self, other):
        return self is other

    def __hash__(self):
        return id(self)

    def __repr__(self):
        return f"{type(self).__name__}({self.tensor.shape})"


class Padding(_TensorMask):
    """Keys (or, with `axis="query"`, queries) that are padding take no part.

    Args:
        valid: bool or 0/1 numbers, [B, S] for keys and [B, T] for queries. True at real positions.
        axis: "key" or "query".
    """

    def __init__(self, valid, axis="key"):
        if axis not in ("key", "query"):
            raise ValueError(f"`axis` must be 'key' or 'query'. Received: axis={axis!r}")
        super().__init__(valid)
        if len(self.tensor.shape) != 2:
            raise ValueError(f"`valid` must have shape [B, S] or [B, T]. Received: shape {tuple(valid.shape)}")
        self.axis = axis

    def check(self, length, key_length):
        expected = key_length if self.axis == "key" else length
        _check_size(f"the padding mask of the {self.axis}", self.tensor, 1, expected)

    def tile(self, rows, columns):
        if self.axis == "key":
            return _at_keys(self.tensor, columns)
        return _at_queries(self.tensor, rows)


class Segments(_TensorMask):
    """Packed sequences: a query attends to keys of its own segment (Krell et al. 2021, https://arxiv.org/abs/2107.02027).

    Args:
        query_segments: int [B, T], the segment of each query.
        key_segments: int [B, S]. Defaults to the queries'.
    """

    def __init__(self, query_segments, key_segments=None):
        super().__init__(query_segments, dtype="int32")
        self.key_tensor = self.tensor if key_segments is None else ops.cast(key_segments, "int32")
        for name, tensor in (("query_segments", self.tensor), ("key_segments", self.key_tensor)):
            if len(tensor.shape) != 2:
                raise ValueError(f"`{name}` must have rank 2. Received: shape {tuple(tensor.shape)}")

    def check(self, length, key_length):
        _check_size("`query_segments`", self.tensor, 1, length)
        _check_size("`key_segments`", self.key_tensor, 1, key_length)

    def tile(self, rows, columns):
        return ops.equal(_at_queries(self.tensor, rows), _at_keys(self.key_tensor, columns))


class Explicit(_TensorMask):
    """A mask written out as a tensor.

    Args:
        allowed: bool or 0/1 numbers, broadcastable to [B, N, T, S]; of rank 2 ([T, S]), 3 ([B, T, S]) or 4.
    """

    def __init__(self, allowed):
        super().__init__(allowed)
        rank = len(self.tensor.shape)
        if not 2 <= rank <= 4:
            raise ValueError(
                "a mask tensor must have shape [T, S], [B, T, S] or [B, N, T, S]. "
                f"Received: shape {tuple(self.tensor.shape)}"
            )
        if rank == 3:
            self.tensor = self.tensor[:, None]

    def check(self, length, key_length):
        check_plane("the mask", self.tensor, length, key_length)

    def tile(self, rows, columns):
        return take_tile(self.tensor, rows, columns)


def check_plane(name, tensor, length, key_length):
    """Raises ValueError if a tensor is known not to be broadcastable to [B, N, T, S] in its last two axes."""
    _check_size(name, tensor, -2, length, broadcast=True)
    _check_size(name, tensor, -1, key_length, broadcast=True)


def _check_size(name, tensor, axis, expected, broadcast=False):
    size = tensor.shape[axis]
    if None not in (size, expected) and size != expected and not (broadcast and size == 1):
        what = "queries" if axis == -2 else "keys" if axis == -1 else "positions"
        raise ValueError(f"{name} must fit {expected} {what}. Received: shape {tuple(tensor.shape)}")


def take_tile(tensor, rows, columns):
    """One tile, or several at once, of a tensor that is broadcastable to [B, N, T, S]; an axis of size 1 stays."""
    if len(rows.shape) > 1:  # each of several tiles has its own rows and columns: pairs of positions are taken
        batch, heads, length, key_length = ops.shape(tensor)
        rows = ops.minimum(rows, length - 1)[..., :, None]  # an axis of size 1 has the position 0 only
        pairs = rows * key_length + ops.minimum(columns, key_length - 1)[..., None, :]
        return ops.take(ops.reshape(tensor, (batch, heads, length * key_length)), pairs, axis=2)
    if tensor.shape[-2] != 1:
        tensor = ops.take(tensor, rows, axis=-2)
    if tensor.shape[-1] != 1:
        tensor = ops.take(tensor, columns, axis=-1)
    return tensor


def _at_queries(tensor, rows):
    """[B, T] -> [B, 1, ..., t, 1]."""
    return ops.expand_dims(ops.take(tensor, rows, axis=1), (1, -1))


def _at_keys(tensor, columns):
    """[B, S] -> [B, 1, ..., 1, s]."""
    return ops.expand_dims(ops.take(tensor, columns, axis=1), (1, -2))


def _bound(limits):
    return min((limit for limit in limits if limit is not None), default=None)


def _largest(a, b):
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else ops.maximum(a, b)


def _smallest(a, b):
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else ops.minimum(a, b)


def combine(*masks):
    """The conjunction of the masks given; None stands for a mask that allows everything.

    Args:
        *masks: `Mask` or None.

    Returns:
        One `Mask`, or None if all were None.
    """
    present = [mask for mask in masks if mask is not None]
    if not present:
        return None
    result = present[0]
    for mask in present[1:]:
        result = result & mask
    return result
