"""Tokenizers that run in the TensorFlow graph, and the training of their vocabularies."""
