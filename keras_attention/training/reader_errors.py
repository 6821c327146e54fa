"""The errors of Python code that runs inside tf.data, as they were raised."""

import collections
import contextlib

import tensorflow as tf

# tf.data makes an error of its own of every Python error and keeps the text alone. The newest ones are enough: an error
# is asked for as soon as it arrives.
_raised = collections.deque(maxlen=64)


def remember(error):
    """Keeps an error that is about to be raised inside tf.data, and returns it."""
    _raised.append(error)
    return error


@contextlib.contextmanager
def reader_errors():
    """Raises the readers' own errors where tf.data would wrap them in one of TensorFlow's.

    `training.fit` reads its data within it. Without it a malformed row arrives as a `tf.errors.OpError` whose message
    holds the same text among others.

    Raises:
        ValueError: for a malformed row, with its file and line, and for a sequence that is too long to be packed.
        OSError: for a file that cannot be read any more.

    Example:

    >>> import tempfile, pathlib
    >>> from keras_attention.training import read_csv, reader_errors
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "train.csv"
    >>> _ = path.write_text("text,label\\nfine,1\\nwrong,x\\n")
    >>> rows = read_csv(path, {"text": "string", "label": "int32"})
    >>> try:
    ...     with reader_errors():
    ...         texts = [row["text"] for row in rows]
    ... except ValueError as error:
    ...     print(str(error).removeprefix(str(path)))
    , line 3: 'label' must be an integer (int32). Mend it, or pass `skip_malformed=True`. Received: 'x'
    """
    try:
        yield
    except tf.errors.OpError as error:
        for own in reversed(_raised):
            if str(own) in error.message:
                raise own.with_traceback(None) from None
        raise
