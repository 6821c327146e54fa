"""Published checkpoints, read into this package's models and written back."""

from keras_attention.pretrained.bert import CheckpointError, load_bert, save_bert

__all__ = ["CheckpointError", "load_bert", "save_bert"]
