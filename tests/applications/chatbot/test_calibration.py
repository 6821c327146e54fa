"""The threshold: what it promises about questions that are missing from the catalogue."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from applications.chatbot import calibration
from applications.chatbot.calibration import calibrate, nearest_other_answer
from applications.chatbot.config import HIGHEST_THRESHOLD


def catalogue(seed, size, answers):
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(size, 4)).astype("float32")
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings, [f"answer {i}" for i in rng.integers(0, answers, size)]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 10), st.floats(0, 1))
def test_at_most_the_wanted_share_of_left_out_questions_would_be_answered(seed, size, answers, rate):
    embeddings, said = catalogue(seed, size, answers)
    threshold = calibrate(embeddings, said, rate)
    assert 0.5 <= threshold <= HIGHEST_THRESHOLD
    nearest = [
        max((float(a @ b) for b, other in zip(embeddings, said, strict=True) if other != own), default=-1)
        for a, own in zip(embeddings, said, strict=True)
    ]
    np.testing.assert_allclose(nearest_other_answer(embeddings, said), nearest, atol=1e-6)
    would_be_answered = np.mean(nearest_other_answer(embeddings, said) >= np.float32(threshold))
    assert would_be_answered <= rate + 1e-9 or threshold == HIGHEST_THRESHOLD


def test_a_large_catalogue_is_compared_piece_by_piece(monkeypatch):
    embeddings, said = catalogue(1, 50, 7)
    whole = nearest_other_answer(embeddings, said)
    monkeypatch.setattr(calibration, "_ROWS_AT_ONCE", 8)
    np.testing.assert_allclose(nearest_other_answer(embeddings, said), whole, atol=1e-6)


def test_a_catalogue_that_says_nothing_about_likeness_gets_the_least_threshold():
    embeddings, _ = catalogue(1, 5, 1)
    assert calibrate(embeddings, ["the same"] * 5, 0.1) == 0.5
    assert calibrate(np.eye(4, dtype="float32"), list("abcd"), 0.0) == 0.5


def test_an_exact_repeat_clears_the_threshold_even_where_questions_with_other_answers_are_alike():
    embeddings, _ = catalogue(1, 1, 1)
    assert calibrate(np.repeat(embeddings, 4, axis=0), list("abcd"), 0.0) == HIGHEST_THRESHOLD
