"""Whole architectures, each readable on one page."""

from keras_attention.models.text_encoder import TextEncoder

__all__ = ["TextEncoder"]
