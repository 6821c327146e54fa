"""Tokenizers that run in the TensorFlow graph, and the training of their vocabularies."""

from keras_attention.text.vocabulary import train_word_piece_vocabulary
from keras_attention.text.word_piece_tokenizer import WordPieceTokenizer

__all__ = ["WordPieceTokenizer", "train_word_piece_vocabulary"]
