"""Attention as pure functions on tensors, on every Keras backend."""

from keras_attention.ops.attention import dot_product_attention
from keras_attention.ops.linear import linear_attention
from keras_attention.ops.top_scores import TopScores

__all__ = ["TopScores", "dot_product_attention", "linear_attention"]
