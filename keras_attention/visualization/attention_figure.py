"""Attention weights as a figure."""

import math

import numpy as np

_PANELS_A_ROW = 4
_MOST_LABELS = 64


def attention_figure(scores, queries=None, keys=None, titles=None):
    """Draws the attention weights of one example, a panel for each head: rows are queries, columns are keys.

    Colours go from 0 to the largest weight of all heads. Axes of more than 64 positions have numbers for labels.

    Args:
        scores: float [N, T, S].
        queries: list of str, T labels or None.
        keys: list of str, S labels or None.
        titles: list of N str. Defaults to "head 0" and so on.

    Returns:
        `matplotlib.figure.Figure`; `figure.savefig(path)` writes it.

    Raises:
        ImportError: without matplotlib.
        ValueError: if the labels do not fit the scores.

    Example:

    >>> import numpy as np
    >>> from keras_attention.visualization import attention_figure
    >>> figure = attention_figure(np.eye(3)[np.newaxis], ["a", "b", "c"], ["a", "b", "c"])
    >>> [panel.get_title() for panel in figure.axes[:1]]
    ['head 0']
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("attention is drawn with matplotlib: pip install matplotlib") from error

    scores = np.asarray(scores)
    if scores.ndim != 3 or not scores.size:
        raise ValueError(f"`scores` must be [N, T, S] and not empty. Received: scores of shape {scores.shape}")
    heads, length, sources = scores.shape
    titles = [f"head {head}" for head in range(heads)] if titles is None else titles
    for name, labels, count in (("queries", queries, length), ("keys", keys, sources), ("titles", titles, heads)):
        if labels is not None and len(labels) != count:
            raise ValueError(
                f"`{name}` must be {count} labels for scores of shape {scores.shape}. Received: {name} of length "
                f"{len(labels)}"
            )
    columns = min(heads, _PANELS_A_ROW)
    rows = math.ceil(heads / columns)
    # In inches: a label wants a quarter of one.
    width, height = (min(max(0.25 * count, 2.0), 8.0) for count in (sources, length))
    figure = Figure(figsize=(columns * (width + 0.9) + 0.6, rows * (height + 0.9)), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel in panels.flat[heads:]:
        panel.set_axis_off()
    for panel, head, title in zip(panels.flat, scores, titles, strict=False):
        image = panel.imshow(head, vmin=0.0, vmax=scores.max(), cmap="viridis", aspect="auto")
        panel.set_title(title, fontsize="medium")
        _label(panel.xaxis, keys, rotation=90)
        _label(panel.yaxis, queries)
    figure.colorbar(image, ax=panels, shrink=0.8, label="attention weight")
    return figure


def _label(axis, labels, rotation=0):
    if labels is not None and len(labels) <= _MOST_LABELS:
        # A dollar sign would begin a formula.
        labels = [label.replace("$", r"\$") for label in labels]
        axis.set_ticks(range(len(labels)), labels=labels, rotation=rotation, fontsize="small")
