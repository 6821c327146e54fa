"""Mask specifications: which keys a query may attend to, composed with `&` and evaluated only where asked.

A specification is not a tensor. It answers for a tile of the [T, S] plane, given by the positions of the tile's queries
and keys, so that an implementation of attention that never holds the whole plane can use the same masks as one that
does. `Causal() & SlidingWindow(256)` is static and may be given to a layer's constructor or call, saved and loaded with
it. `Padding` and `Explicit` hold a tensor: they are made where the tensor exists, inside a layer's `call`.
"""

import keras
from keras import ops

_PACKAGE = "keras_attention"


class Mask:
    """The base of all mask specifications."""

    def tile(self, rows, columns):
        """Says for one tile of the [T, S] plane who may attend to whom.

        Args:
            rows: int32 [t], the positions of the tile's queries.
            columns: int32 [s], the positions of the tile's keys.

        Returns:
            bool, broadcastable to [B, N, t, s]. True where the query may attend to the key.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `tile(rows, columns)`.")

    def __and__(self, other):
        if not isinstance(other, Mask):
            return NotImplemented
        return Both(self, other)

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __eq__(self, other):
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __hash__(self):
        return hash((type(self), tuple(self.get_config().items())))

    def __repr__(self):
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


@keras.saving.register_keras_serializable(_PACKAGE)
class Both(Mask):
    """What two masks both allow; written `first & second`."""

    def __init__(self, first, second):
        self.first = first
        self.second = second

    def tile(self, rows, columns):
        return ops.logical_and(self.first.tile(rows, columns), self.second.tile(rows, columns))

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
        return rows[:, None] >= columns[None, :]


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
        return ops.abs(rows[:, None] - columns[None, :]) < self.size

    def get_config(self):
        return {"size": self.size}


class _TensorMask(Mask):
    """A mask that holds a tensor, and so belongs to one call of one layer."""

    def __init__(self, tensor):
        if isinstance(tensor, keras.KerasTensor):
            raise ValueError(
                f"{type(self).__name__} cannot hold a symbolic Keras tensor: the functional model would keep the "
                "placeholder and fail when it runs. Make it inside a layer's `call`, or pass the tensor to the layer "
                f"as `attention_mask`, `query_mask` or `value_mask`. Received: {tensor}"
            )
        self.tensor = ops.cast(tensor, "bool")

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

    def tile(self, rows, columns):
        if self.axis == "key":
            return ops.take(self.tensor, columns, axis=1)[:, None, None, :]
        return ops.take(self.tensor, rows, axis=1)[:, None, :, None]


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

    def tile(self, rows, columns):
        tensor = self.tensor
        if tensor.shape[-2] != 1:
            tensor = ops.take(tensor, rows, axis=-2)
        if tensor.shape[-1] != 1:
            tensor = ops.take(tensor, columns, axis=-1)
        return tensor


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
