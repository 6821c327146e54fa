"""The mask that Keras attaches to a tensor, read and set."""

# Keras has no public accessor, and `tensor._keras_mask` is not enough: JAX arrays take no attributes, so Keras keeps
# their masks in a table of its own that only these two functions reach.
from keras.src.backend import get_keras_mask, set_keras_mask

__all__ = ["get_keras_mask", "set_keras_mask"]
