"""Keras layers for attention models, on every Keras backend."""

from keras_attention.layers.attention_pooling import AttentionPooling
from keras_attention.layers.feed_forward import FeedForward, gelu_tanh
from keras_attention.layers.multi_head_attention import MultiHeadAttention
from keras_attention.layers.position_embedding import PositionEmbedding
from keras_attention.layers.positional_encoding import PositionalEncoding
from keras_attention.layers.relative_position_bias import RelativePositionBias
from keras_attention.layers.rotary_position import RotaryPosition
from keras_attention.layers.segment_embedding import SegmentEmbedding
from keras_attention.layers.token_and_position_embedding import TokenAndPositionEmbedding
from keras_attention.layers.transformer_block import TransformerBlock
from keras_attention.layers.transformer_decoder import TransformerDecoder
from keras_attention.layers.transformer_encoder import TransformerEncoder
from keras_attention.layers.transformer_xl import TransformerXL
from keras_attention.layers.transformer_xl_position import TransformerXLPosition

__all__ = [
    "AttentionPooling",
    "FeedForward",
    "MultiHeadAttention",
    "PositionEmbedding",
    "PositionalEncoding",
    "RelativePositionBias",
    "RotaryPosition",
    "SegmentEmbedding",
    "TokenAndPositionEmbedding",
    "TransformerBlock",
    "TransformerDecoder",
    "TransformerEncoder",
    "TransformerXL",
    "TransformerXLPosition",
    "gelu_tanh",
]
