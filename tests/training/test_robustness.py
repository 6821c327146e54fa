"""The report says how many predictions noise changes."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from keras_attention.text import CharacterNoise, WordNoise, add_noise
from keras_attention.training import robustness_report

WORDS = {"refund": 0, "delivery": 1, "password": 2}
TEXTS = [f"what about my {word}, please" for word in WORDS] * 10
LABELS = [*WORDS.values()] * 10


def predict(texts):
    """Knows the words as they are written, and nothing else."""
    return [next((label for word, label in WORDS.items() if word in text), 3) for text in texts]


def test_a_classifier_that_knows_whole_words_loses_by_typing_errors_and_not_by_other_words():
    report = robustness_report(predict, TEXTS, LABELS)
    rows = {row.condition: row for row in report.rows}
    assert report.rows[0].condition == "as it is"
    assert (rows["as it is"].accuracy, rows["as it is"].macro_f1) == (1.0, 1.0)
    assert rows["as it is"].accuracy_spread == 0.0
    assert rows["all capitals"].accuracy == 0.0
    assert rows["words swapped 20 %"].accuracy == 1.0
    assert rows["typos 10 %"].accuracy < rows["typos 5 %"].accuracy < 1.0
    assert rows["typos 5 %"].accuracy_spread > 0.0


def test_the_scores_are_the_mean_and_the_deviation_over_seeds():
    noise = CharacterNoise(0.1)
    (_, row) = robustness_report(predict, TEXTS, np.array(LABELS), {"typos": noise}, seeds=4).rows
    predictions = [np.array(predict(add_noise(TEXTS, [noise], seed))) for seed in range(4)]
    accuracies = [(p == LABELS).mean() for p in predictions]
    scores = [f1_score(LABELS, p, average="macro", zero_division=0) for p in predictions]
    assert row.accuracy == pytest.approx(np.mean(accuracies))
    assert row.accuracy_spread == pytest.approx(np.std(accuracies))
    assert row.macro_f1 == pytest.approx(np.mean(scores))
    assert row.macro_f1_spread == pytest.approx(np.std(scores))


def test_a_condition_may_be_several_noises_or_a_function_of_ones_own():
    conditions = {"both": [CharacterNoise(0.1), WordNoise(0.1)], "reversed": lambda text, rng: text[::-1]}
    report = robustness_report(predict, TEXTS, LABELS, conditions)
    assert [row.condition for row in report.rows] == ["as it is", "both", "reversed"]
    assert report.rows[2].accuracy == 0.0


def test_it_prints_as_a_table_with_a_row_for_each_condition():
    report = robustness_report(predict, TEXTS, LABELS, {"all capitals": lambda text, rng: text.upper()})
    lines = str(report).splitlines()
    assert lines[0] == "30 texts, mean and standard deviation over 3 seeds"
    assert lines[2].split() == ["as", "it", "is", "1.000", "±", "0.000", "1.000", "±", "0.000", "+0.000"]
    assert lines[3].split() == ["all", "capitals", "0.000", "±", "0.000", "0.000", "±", "0.000", "-1.000"]
    assert len({len(line) for line in lines[1:]}) == 1


@pytest.mark.parametrize(
    ("texts", "labels", "options", "message"),
    [
        ([], [], {}, "`texts` and `labels`"),
        (["a"], [0, 1], {}, "`texts` and `labels`"),
        (["a"], [0], {"seeds": 0}, "`seeds`"),
    ],
)
def test_texts_and_labels_that_do_not_match_are_refused(texts, labels, options, message):
    with pytest.raises(ValueError, match=rf"{message} must be .*Received: "):
        robustness_report(predict, texts, labels, **options)


def test_a_predict_that_loses_texts_is_refused():
    with pytest.raises(ValueError, match=r"`predict` must return one label for each text\. Received: .*\(1,\) for 2"):
        robustness_report(lambda texts: [0], ["a", "b"], [0, 0])
