"""Figures show what they were given."""

import numpy as np
import pytest

from keras_attention.visualization import attention_figure

SCORES = np.random.default_rng(0).dirichlet(np.ones(3), size=(5, 2)).astype("float32")


def _panels(figure):
    return [axes for axes in figure.axes if axes.get_title()]


def test_every_head_has_a_panel_with_its_weights_and_labels():
    figure = attention_figure(SCORES, ["the", "$5"], ["a", "b", "c"])
    panels = _panels(figure)
    assert [panel.get_title() for panel in panels] == [f"head {i}" for i in range(5)]
    for panel, scores in zip(panels, SCORES, strict=True):
        np.testing.assert_array_equal(panel.images[0].get_array(), scores)
        assert [label.get_text() for label in panel.get_xticklabels()] == ["a", "b", "c"]
        assert [label.get_text() for label in panel.get_yticklabels()] == ["the", r"\$5"]


def test_long_sequences_are_drawn_with_numbers_for_labels(tmp_path):
    figure = attention_figure(np.eye(65)[np.newaxis], ["x"] * 65, ["x"] * 65)
    figure.savefig(tmp_path / "figure.png")
    assert "x" not in {label.get_text() for label in _panels(figure)[0].get_xticklabels()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scores": SCORES[0]}, r"`scores` must be \[N, T, S\].*\(2, 3\)"),
        ({"scores": SCORES[:0]}, r"`scores` .* not empty"),
        ({"scores": SCORES, "keys": ["a"]}, "`keys` must be 3 labels.*length 1"),
        ({"scores": SCORES, "titles": ["a"]}, "`titles` must be 5 labels.*length 1"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        attention_figure(**options)
