"""Tokenizers that run in the TensorFlow graph, the training of their vocabularies, and noise to augment texts with."""

from keras_attention.text.augmentation import CharacterNoise, WordNoise, add_noise, augment
from keras_attention.text.vocabulary import train_word_piece_vocabulary
from keras_attention.text.word_piece_tokenizer import WordPieceTokenizer

__all__ = [
    "CharacterNoise",
    "WordNoise",
    "WordPieceTokenizer",
    "add_noise",
    "augment",
    "train_word_piece_vocabulary",
]
