"""Evaluation: how often the bot answers, how often it is right, and how often it is rightly silent."""

import json
import logging

import matplotlib

from applications.chatbot import run
from applications.chatbot.data import read_entries
from applications.chatbot.train import embed_all

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

logger = logging.getLogger(__name__)


def evaluate(config):
    """Evaluates a run and writes report.json and report.png.

    Args:
        config: `EvaluateConfig`.

    Returns:
        dict: questions, in_scope, out_of_scope; answered (share of the in-scope questions that were answered), accuracy
        (share of those that were right), refused (share of the out-of-scope questions that were declined), each None
        where there is no such question; and threshold.

    Raises:
        DataError, RunError: for what was given.
    """
    made = run.load(config.run)
    answers = np.array([entry.answer for entry in made.entries], dtype=object)
    if config.data is None:
        expected, similarities = answers, made.embeddings @ made.embeddings.T
        np.fill_diagonal(similarities, -1)
        _, ids, counts = np.unique(answers.astype(str), return_inverse=True, return_counts=True)
        in_scope = counts[ids] > 1
    else:
        tests = read_entries(config.data, config.language, answers_required=False)
        expected = np.array([entry.answer for entry in tests], dtype=object)
        questions = [entry.question for entry in tests]
        similarities = embed_all(made.encoder, made.tokenizer, questions) @ made.embeddings.T
        in_scope = expected != ""
        unknown = set(expected[in_scope]) - set(answers)
        if unknown:
            logger.warning("%d answers of %s are not in the catalogue: never right", len(unknown), config.data)
    scores = similarities.max(axis=1)
    right = answers[similarities.argmax(axis=1)] == expected
    threshold = made.config["threshold"]
    report = {"questions": len(scores), "in_scope": int(in_scope.sum()), "out_of_scope": int((~in_scope).sum())}
    report |= _rates(scores, right, in_scope, threshold)
    report["threshold"] = threshold
    output = config.output or config.run
    output.mkdir(parents=True, exist_ok=True)
    (output / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    _draw(output / "report.png", scores, right, in_scope, threshold)
    return report


def _rates(scores, right, in_scope, threshold):
    answered = scores >= threshold

    def share(of, among):
        return round(float(of[among].mean()), 4) if among.any() else None

    return {
        "answered": share(answered, in_scope),
        "accuracy": share(right, in_scope & answered),
        "refused": share(~answered, ~in_scope),
    }


def _draw(path, scores, right, in_scope, threshold):
    thresholds = np.linspace(0, 1, 101)
    rates = [_rates(scores, right, in_scope, t) for t in thresholds]
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for key, label in (
        ("answered", "in scope: answered"),
        ("accuracy", "answered: right"),
        ("refused", "out of scope: declined"),
    ):
        values = [rate[key] for rate in rates]
        if any(value is not None for value in values):
            axes.plot(thresholds, [np.nan if value is None else value for value in values], label=label)
    axes.axvline(threshold, color="black", linewidth=1, linestyle=":", label=f"threshold {threshold:.2f}")
    axes.set(xlabel="threshold on the score", ylabel="share of the questions", ylim=(0, 1.02), xlim=(0, 1))
    axes.legend(loc="lower left")
    figure.savefig(path, dpi=120)
    plt.close(figure)
