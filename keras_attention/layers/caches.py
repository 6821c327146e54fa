"""What attention keeps from one step to the next, so that a step computes its own positions only.

A cache is a NamedTuple of tensors, given to a call and returned by it, so that it can live in a `while_loop`. It
belongs to one run over one batch: `MultiHeadAttention.make_cache` and `TransformerBlock.make_cache` make an empty one.
"""

from typing import NamedTuple

from keras import ops


class Attended(NamedTuple):
    """What the queries of one step may attend to.

    Attributes:
        key: float [B, S, K, H].
        value: float [B, S, K, H_v].
        valid: bool [B, S], False for padding and for what is not there yet.
        key_positions: int32 [S], or None for 0, 1, ..., S - 1.
    """

    key: object
    value: object
    valid: object
    key_positions: object = None


class KeyValueCache(NamedTuple):
    """The keys and values of all positions so far, in order, with room for `max_length`.

    Padding may stand anywhere: examples of different lengths are padded on the left, so that all of them end at the
    same position and go on together.

    Attributes:
        key: float [B, L, K, H].
        value: float [B, L, K, H_v].
        valid: bool [B, L].
        length: int32 scalar, how many positions are filled.
    """

    key: object
    value: object
    valid: object
    length: object

    def append(self, key, value, valid):
        """Adds the keys and values [B, T, K, ...] of the next T positions, of which `valid` [B, T] are no padding.

        Returns:
            (Attended, KeyValueCache).

        Raises:
            ValueError: if they are known not to fit. In a traced function the length is not known: there it is the
                caller who counts.
        """
        room, more = self.key.shape[1], key.shape[1]
        filled = _known(self.length)
        if more is not None and (filled or 0) + more > room:
            raise ValueError(
                "`cache` is full: make one with a larger `max_length`. Received: a cache for "
                f"{room} positions{'' if filled is None else f' of which {filled} are filled'}, and {more} more"
            )
        cache = KeyValueCache(
            ops.slice_update(self.key, (0, self.length, 0, 0), ops.cast(key, self.key.dtype)),
            ops.slice_update(self.value, (0, self.length, 0, 0), ops.cast(value, self.value.dtype)),
            _write_flags(self.valid, self.length, valid),
            self.length + ops.shape(key)[1],
        )
        return Attended(cache.key, cache.value, cache.valid), cache

    def reorder(self, examples):
        """The cache of the given examples, int [B]: a beam search goes on with some of its hypotheses."""
        return _reorder(self, examples)


class RollingCache(NamedTuple):
    """The keys and values of the last positions only, which is all that a sliding window sees: any length fits.

    Position p is in slot p mod L.

    Attributes:
        key: float [B, L, K, H].
        value: float [B, L, K, H_v].
        valid: bool [B, L].
        length: int32 scalar, how many positions have been seen.
    """

    key: object
    value: object
    valid: object
    length: object

    def append(self, key, value, valid):
        """As `KeyValueCache.append`; it is never full."""
        more = ops.shape(key)[1]
        attended = Attended(
            ops.concatenate([self.key, ops.cast(key, self.key.dtype)], axis=1),
            ops.concatenate([self.value, ops.cast(value, self.value.dtype)], axis=1),
            ops.concatenate([self.valid, valid], axis=1),
            ops.concatenate([self._positions(self.length), self.length + ops.arange(more, dtype="int32")], axis=0),
        )
        # A slot's next position is one of the new ones, or stays.
        positions = self._positions(self.length + more)
        size = self.key.shape[1]
        slots = ops.arange(size, dtype="int32")
        source = ops.where(positions >= self.length, size + positions - self.length, slots)
        kept = [ops.take(x, source, axis=1) for x in attended[:3]]
        return attended, RollingCache(*kept, self.length + more)

    def _positions(self, length):
        """The last position before `length` that each slot is for, int32 [L]; negative if there was none."""
        size = self.key.shape[1]
        return length - 1 - ops.mod(length - 1 - ops.arange(size, dtype="int32"), size)

    def reorder(self, examples):
        """As `KeyValueCache.reorder`."""
        return _reorder(self, examples)


class ContextCache(NamedTuple):
    """The keys and values of a context that cross-attention attends to, projected once.

    Attributes:
        key: float [B, S, K, H].
        value: float [B, S, K, H_v].
        valid: bool [B, S].
        length: int32 scalar, how many queries there have been.
    """

    key: object
    value: object
    valid: object
    length: object

    def advance(self, steps):
        """The same cache after so many more queries."""
        return self._replace(length=self.length + steps)

    def reorder(self, examples):
        """As `KeyValueCache.reorder`."""
        return _reorder(self, examples)


class BlockCache(NamedTuple):
    """The caches of one `TransformerBlock`.

    Attributes:
        self_attention: `KeyValueCache` or `RollingCache`.
        context: `ContextCache`, or None without cross-attention.
    """

    self_attention: object
    context: object = None

    def reorder(self, examples):
        """As `KeyValueCache.reorder`."""
        return BlockCache(*[None if cache is None else cache.reorder(examples) for cache in self])


def empty_cache(batch_size, max_length, num_heads, key_size, value_size, dtype, window=None):
    """A cache without any position, `RollingCache` if a window is shorter than `max_length`.

    Args:
        batch_size: int or int32 scalar, B.
        max_length: int, the most positions that it is to hold.
        num_heads: int, K.
        key_size: int, H.
        value_size: int, H_v.
        dtype: str, of the keys and values.
        window: int or None, the sliding window.

    Returns:
        `KeyValueCache` or `RollingCache`.
    """
    rolls = window is not None and window < max_length
    # A query sees `window - 1` positions before its own. (No slot at all would leave nothing to take the remainder of.)
    length = max(window - 1, 1) if rolls else max_length
    return (RollingCache if rolls else KeyValueCache)(
        ops.zeros((batch_size, length, num_heads, key_size), dtype),
        ops.zeros((batch_size, length, num_heads, value_size), dtype),
        ops.zeros((batch_size, length), "bool"),
        ops.zeros((), "int32"),
    )


def _write_flags(flags, start, new):
    """`flags` [B, L] with `new` [B, T] from `start` on; as numbers, since not every backend writes into bool."""
    return ops.cast(ops.slice_update(ops.cast(flags, "int32"), (0, start), ops.cast(new, "int32")), "bool")


def _reorder(cache, examples):
    return cache._replace(
        **{name: ops.take(getattr(cache, name), examples, axis=0) for name in ("key", "value", "valid")}
    )


def _known(length):
    try:
        return int(length)
    except TypeError:  # a symbol of a traced function
        return None
