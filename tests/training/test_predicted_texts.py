"""A model's answers are text in TensorBoard."""

import pytest
import tensorflow as tf

from keras_attention.training import PredictedTexts, TrainingConfig, fit
from tests.training import worker
from tests.training.boards import read

INPUTS = ["3 4 5", "7 | *8*"]


def _predict(model, texts):
    ids = [[int(part) for part in text.replace("|", "").replace("*", "").split()] for text in texts]
    answers = tf.argmax(model(tf.ragged.constant(ids).to_tensor()), axis=-1)
    return [" ".join(map(str, row[: len(own)])) for row, own in zip(answers.numpy(), ids, strict=True)]


def _fit(tmp_path, predict=_predict, epochs=1):
    config = TrainingConfig(epochs=epochs, progress=False)
    callback = PredictedTexts(tmp_path, predict, INPUTS)
    return fit(lambda: worker.build({"learning_rate": 0.1}, layers=1), worker.dataset(), None, config, [callback])


def test_inputs_and_answers_stand_beside_each_other_after_every_epoch(tmp_path):
    trained = _fit(tmp_path, epochs=2)
    events = read(tmp_path / "texts").Tensors("answers")
    assert [event.step for event in events] == [6, 12]
    tables = [tf.make_ndarray(event.tensor_proto) for event in events]
    expected = [["input", "answer"], *map(list, zip(INPUTS, _predict(trained.model, INPUTS), strict=True))]
    assert [[cell.decode() for cell in row] for row in tables[-1]] == expected


@pytest.mark.parametrize(
    ("answers", "received"),
    [(["one"], r"\['one'\]"), (["one", 2], r"\['one', 2\]"), ("ab c", r"\['a', 'b', ' ', 'c'\]")],
)
def test_answers_that_do_not_fit_the_inputs_are_refused(tmp_path, answers, received):
    with pytest.raises(ValueError, match=rf"`predict` must return a str for each of 2 inputs\. Received: {received}"):
        _fit(tmp_path, lambda model, texts: answers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"predict": None, "inputs": ["a"]}, "`predict` must be a function"),
        ({"predict": _predict, "inputs": []}, "`inputs` must be a list of str"),
        ({"predict": _predict, "inputs": "abc"}, "`inputs` must be a list of str.*inputs='abc'"),
        ({"predict": _predict, "inputs": [1]}, "`inputs` must be a list of str"),
        ({"predict": _predict, "inputs": ["a"], "every_epochs": True}, "`every_epochs` must be a positive integer"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        PredictedTexts(tmp_path, **options)
