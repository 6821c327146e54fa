"""What attention layers attend to, as arrays and as figures."""

from keras_attention.visualization.attention_figure import attention_figure
from keras_attention.visualization.attention_scores import attention_scores

__all__ = ["attention_figure", "attention_scores"]
