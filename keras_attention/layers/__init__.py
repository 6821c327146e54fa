"""Keras layers for attention models, on every Keras backend."""

from keras_attention.layers.feed_forward import FeedForward, gelu_tanh
from keras_attention.layers.multi_head_attention import MultiHeadAttention
from keras_attention.layers.positional_encoding import PositionalEncoding
from keras_attention.layers.token_and_position_embedding import TokenAndPositionEmbedding
from keras_attention.layers.transformer_block import TransformerBlock

__all__ = [
    "FeedForward",
    "MultiHeadAttention",
    "PositionalEncoding",
    "TokenAndPositionEmbedding",
    "TransformerBlock",
    "gelu_tanh",
]
