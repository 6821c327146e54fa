"""The score from which on an answer is given, found without labels by leaving each question out of the catalogue."""

import numpy as np

from applications.chatbot.config import HIGHEST_THRESHOLD

_LEAST = 0.5
_ROWS_AT_ONCE = 1024


def nearest_other_answer(embeddings, answers):
    """For each question, its score with the nearest question that has another answer.

    That is what the bot would see if the question's own answer were not in the catalogue: a question that it should not
    answer, and as near to the catalogue as questions come.

    Args:
        embeddings: float32 [M, D], of length 1 each.
        answers: list of str, M.

    Returns:
        float32 [M]; -1 where no other answer exists.
    """
    _, answer_ids = np.unique(np.asarray(answers, dtype=object).astype(str), return_inverse=True)
    nearest = np.empty(len(embeddings), "float32")
    for start in range(0, len(embeddings), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        similarities = embeddings[rows] @ embeddings.T
        similarities[answer_ids[rows, None] == answer_ids[None, :]] = -1
        nearest[rows] = similarities.max(axis=1)
    return nearest


def calibrate(embeddings, answers, false_answer_rate):
    """The threshold at which at most this share of left-out questions would get another question's answer.

    Args:
        embeddings: float32 [M, D], of length 1 each.
        answers: list of str, M.
        false_answer_rate: float in [0, 1].

    Returns:
        float from 0.5 to `HIGHEST_THRESHOLD`. Less is never returned: a few questions that have nothing to do with one
        another would otherwise say that any likeness will do. Nor is more, even where the share is exceeded by
        questions that the encoder cannot tell apart: an exact repeat must be answered.
    """
    nearest = np.sort(nearest_other_answer(embeddings, answers))[::-1]
    allowed = int(false_answer_rate * len(nearest))
    just_above = np.nextafter(nearest[allowed], np.float32(2)) if allowed < len(nearest) else _LEAST
    return float(np.clip(float(just_above), _LEAST, HIGHEST_THRESHOLD))
