"""The columns that are wanted of a file, and what makes a value of theirs malformed."""

import reprlib

import tensorflow as tf

_INTEGERS = (tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint16, tf.uint32, tf.uint64)

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 100


class Malformed(Exception):
    """A row that is not what it should be: what was expected, and what there is."""

    def __init__(self, reason, received):
        super().__init__(reason, received)
        self.reason = reason
        self.received = _short.repr(received)


class Column:
    """A column by its name, and the type of its values.

    Args:
        name: str.
        spec: dtype of one value, or `tf.TensorSpec([None], dtype)` of a list.

    Raises:
        ValueError: if it is neither, or a dtype other than strings, integers and floats.
    """

    def __init__(self, name, spec):
        try:
            self.is_list = isinstance(spec, tf.TensorSpec)
            self.dtype = tf.as_dtype(spec.dtype if self.is_list else spec)
            rank = spec.shape.rank if self.is_list else 1
        except TypeError:
            self.dtype, rank = None, None
        if self.dtype not in (tf.string, *_INTEGERS, tf.float32, tf.float64) or rank != 1:
            raise ValueError(
                "`columns` must map each name to a dtype among strings, integers, float32 and float64, or to a "
                f"`tf.TensorSpec([None], dtype)` for lists. Received: columns[{name!r}]={spec!r}"
            )
        self.name = name
        self.is_string = self.dtype == tf.string
        self._is_integer = self.dtype.is_integer
        if not self.is_string:
            kind = int if self._is_integer else float
            self._low, self._high = kind(self.dtype.min), kind(self.dtype.max)

    def from_text(self, text):
        """The value that a str stands for, with the bytes of what is not UTF-8 as surrogates."""
        if self.is_string:
            return self._encode(text)
        try:
            number = int(text) if self._is_integer else float(text)
        except ValueError:
            raise self._malformed(text) from None
        if "_" in text:  # Python's, and no one else's
            raise self._malformed(text)
        return self._within_limits(number, text)

    def from_json(self, value):
        """The value, or the list of values, that JSON holds."""
        return self._each(value, self._one_from_json)

    def from_numbers(self, values):
        """The value, or the list of values, among numbers of the right kind."""
        return self._each(values, lambda number: self._within_limits(number, number))

    def _each(self, value, convert):
        if not self.is_list:
            return convert(value)
        if not isinstance(value, list):
            raise Malformed(f"{self.name!r} must be a list", value)
        return [convert(each) for each in value]

    def _one_from_json(self, value):
        kind = type(value)
        if self.is_string:
            if kind is not str:
                raise self._malformed(value)
            return self._encode(value)
        if kind is not int and (self._is_integer or kind is not float):
            raise self._malformed(value)
        return self._within_limits(value, value)

    def _encode(self, text):
        try:
            return text.encode()
        except UnicodeEncodeError:
            raise Malformed(f"{self.name!r} must be UTF-8", text) from None

    def _within_limits(self, number, received):
        # A comparison with "not a number" is false.
        if not self._low <= number <= self._high:
            raise self._malformed(received)
        return number

    def _malformed(self, received):
        kind = "a string" if self.is_string else "an integer" if self._is_integer else "a finite number"
        return Malformed(
            f"{self.name!r} must be {kind}" + ("" if self.is_string else f" ({self.dtype.name})"), received
        )


def make_columns(columns, lists=True):
    """The columns that an argument names.

    Args:
        columns: dict of name -> dtype or `tf.TensorSpec([None], dtype)`.
        lists: bool, whether there may be lists.

    Returns:
        list of `Column`.

    Raises:
        ValueError: if it is none, or for what `Column` refuses.
    """
    if not isinstance(columns, dict) or not columns:
        raise ValueError(f"`columns` must be a dict of names and dtypes. Received: columns={columns!r}")
    made = [Column(name, spec) for name, spec in columns.items()]
    for column in made:
        if column.is_list and not lists:
            raise ValueError(
                f"`columns` must have one value a row in this format. Received: columns[{column.name!r}]="
                f"{columns[column.name]!r}"
            )
    return made
