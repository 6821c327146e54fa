"""Seeds of the parts of a layer, from the layer's own."""

import zlib


def derive_seed(seed, *part):
    """A seed for one part, so that no two parts drop the same positions.

    Args:
        seed: int or None.
        *part: str or int, what the part is called.

    Returns:
        int, the same for the same arguments and no larger than an int32, which is what Keras keeps seeds in on PyTorch;
        None for None.
    """
    return None if seed is None else zlib.crc32(repr((seed, *part)).encode()) & 0x7FFFFFFF
