"""Many requests' arrays into one batch, and one batch's outputs back into theirs."""

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import numpy as np

Arrays = Mapping[str, np.ndarray]


class NotByRowError(ValueError):
    """An output does not have one entry for each row of the inputs, so it cannot be divided among requests."""


def row_shapes(inputs: Arrays, pads: bool) -> tuple:
    """What two requests must have in common to be merged.

    Args:
        inputs: arrays [rows, ...] by name.
        pads: whether rows of different sizes are padded, so that only their ranks need to agree.

    Returns:
        A value to compare.
    """
    return tuple(array.ndim if pads else array.shape[1:] for _, array in sorted(inputs.items()))


def merge(requests: Sequence[Arrays], rows: int) -> dict[str, np.ndarray]:
    """Puts requests together.

    Rows of different sizes are padded at their ends to the largest, with zeros, False or empty strings.

    Args:
        requests: the inputs of each request, with the same names, dtypes and ranks.
        rows: how many rows the batch is to have; if the requests have fewer, the first row is repeated, which is at
            least a row that the model can take.

    Returns:
        The inputs [rows, ...] by name.

    Example:
        >>> merge([{"ids": np.array([[5, 6]])}, {"ids": np.array([[7]])}], rows=2)["ids"]
        array([[5, 6],
               [7, 0]])
    """
    return {name: _merge_arrays([request[name] for request in requests], rows) for name in requests[0]}


def _merge_arrays(arrays: Sequence[np.ndarray], rows: int) -> np.ndarray:
    if len({array.shape[1:] for array in arrays}) > 1:
        row_shape = tuple(map(max, *(array.shape[1:] for array in arrays)))
        arrays = [_padded(array, row_shape) for array in arrays]
    missing = rows - sum(map(len, arrays))
    if missing:
        first = next(array for array in arrays if len(array))
        arrays = [*arrays, np.broadcast_to(first[:1], (missing, *first.shape[1:]))]
    return np.concatenate(arrays) if len(arrays) > 1 else arrays[0]


def _padded(array: np.ndarray, row_shape: tuple[int, ...]) -> np.ndarray:
    padded = np.full((len(array), *row_shape), b"" if array.dtype == object else 0, array.dtype)
    padded[tuple(map(slice, array.shape))] = array
    return padded


def split(outputs: Arrays, counts: Sequence[int], rows: int) -> list[dict[str, np.ndarray]]:
    """Gives each request its rows of the outputs, and drops the rows that were only filled in.

    Args:
        outputs: the outputs of a batch by name.
        counts: the number of rows of each request, in the order in which they were merged.
        rows: how many rows the batch was run with.

    Returns:
        The outputs of each request.

    Raises:
        NotByRowError: if an output does not have `rows` rows.
    """
    for name, array in outputs.items():
        if array.shape[:1] != (rows,):
            raise NotByRowError(f"output {name} of shape {array.shape} does not have {rows} rows")
    bounds = list(accumulate(counts, initial=0))
    return [{name: array[start:stop] for name, array in outputs.items()} for start, stop in pairwise(bounds)]
