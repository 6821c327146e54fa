"""How a text classifier holds up when its users make typing errors."""

import dataclasses

import numpy as np

from keras_attention.text.augmentation import CharacterNoise, WordNoise, add_noise

CONDITIONS = {
    "typos 5 %": CharacterNoise(0.05),
    "typos 10 %": CharacterNoise(0.10),
    "characters deleted 10 %": CharacterNoise(0.10, ("delete",)),
    "case 50 %": CharacterNoise(0.50, ("case",)),
    "all capitals": lambda text, rng: text.upper(),
    "words deleted 20 %": WordNoise(0.20, ("delete",)),
    "words swapped 20 %": WordNoise(0.20, ("swap",)),
}


@dataclasses.dataclass(frozen=True)
class Robustness:
    """The scores under one condition.

    Attributes:
        condition: str.
        accuracy: float, the mean over seeds.
        accuracy_spread: float, the standard deviation over seeds.
        macro_f1: float, the mean over seeds of the unweighted mean of the classes' F1.
        macro_f1_spread: float, the standard deviation over seeds.
    """

    condition: str
    accuracy: float
    accuracy_spread: float
    macro_f1: float
    macro_f1_spread: float


@dataclasses.dataclass(frozen=True)
class RobustnessReport:
    """The scores under all conditions; as a string, a table.

    Attributes:
        rows: tuple of `Robustness`, the first without noise.
        texts: int, how many texts were classified under each condition.
        seeds: int, how often each condition was tried.
    """

    rows: tuple[Robustness, ...]
    texts: int
    seeds: int

    def __str__(self):
        width = max(len(row.condition) for row in self.rows)
        lines = [f"{self.texts} texts, mean and standard deviation over {self.seeds} seeds"]
        lines.append(f"{'condition':{width}}  {'accuracy':>13}  {'macro-F1':>13}  change of accuracy")
        for row in self.rows:
            scores = (row.accuracy, row.accuracy_spread), (row.macro_f1, row.macro_f1_spread)
            cells = "  ".join(f"{mean:.3f} ± {spread:.3f}" for mean, spread in scores)
            lines.append(f"{row.condition:{width}}  {cells}  {row.accuracy - self.rows[0].accuracy:+18.3f}")
        return "\n".join(lines)


def robustness_report(predict, texts, labels, conditions=None, seeds=3):
    """Scores a classifier on texts as they are, and with noise of several kinds.

    Args:
        predict: function of a list of str that returns a list or array of labels, one for each.
        texts: list of str.
        labels: list or array of the right labels.
        conditions: dict of the noises by name, each a `CharacterNoise`, a `WordNoise` or another function of a str and
            a `numpy.random.Generator`, or a list of such. Defaults to `CONDITIONS`: typing errors, characters deleted,
            letter case, words deleted and swapped.
        seeds: int, how often to try each.

    Returns:
        `RobustnessReport`, which prints as a table.

    Raises:
        ModuleNotFoundError: if scikit-learn is not installed.
        ValueError: if there are no texts, or not as many labels as texts, or as many predictions.

    Example:

    >>> from keras_attention.training import robustness_report
    >>> def predict(texts):
    ...     return ["question" if text.endswith("?") else "other" for text in texts]
    >>> report = robustness_report(predict, ["why?", "thanks"], ["question", "other"])
    >>> report.rows[0].accuracy
    1.0

    Reference: Rychalska et al. 2019, Models in the Wild: On Corruption Robustness of Neural NLP Systems,
    https://doi.org/10.1007/978-3-030-36718-3_20
    """
    texts, labels = list(texts), np.asarray(labels)
    if not texts or len(texts) != len(labels):
        raise ValueError(
            f"`texts` and `labels` must be of one length, and not empty. Received: {len(texts)} texts, {len(labels)} "
            "labels"
        )
    if not isinstance(seeds, int) or seeds < 1:
        raise ValueError(f"`seeds` must be a positive integer. Received: {seeds=}")
    rows = [_row("as it is", [_scores(predict, texts, labels)] * seeds)]
    for name, noises in (CONDITIONS if conditions is None else conditions).items():
        noises = [noises] if callable(noises) else list(noises)
        scores = [_scores(predict, add_noise(texts, noises, seed), labels) for seed in range(seeds)]
        rows.append(_row(name, scores))
    return RobustnessReport(tuple(rows), len(texts), seeds)


def _scores(predict, texts, labels):
    try:
        from sklearn.metrics import accuracy_score, f1_score
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"the report needs scikit-learn: pip install scikit-learn ({error})") from error

    predicted = np.asarray(predict(texts))
    if predicted.shape != labels.shape:
        raise ValueError(
            f"`predict` must return one label for each text. Received: predictions of shape {predicted.shape} for "
            f"{len(texts)} texts"
        )
    return accuracy_score(labels, predicted), f1_score(labels, predicted, average="macro", zero_division=0)


def _row(condition, scores):
    (accuracy, macro_f1), (accuracy_spread, f1_spread) = np.mean(scores, 0), np.std(scores, 0)
    return Robustness(condition, *(float(x) for x in (accuracy, accuracy_spread, macro_f1, f1_spread)))
