"""Attention as pure functions on tensors, on every Keras backend."""

from keras_attention.ops.attention import dot_product_attention

__all__ = ["dot_product_attention"]
