"""Attention maps of a run are images in TensorBoard that show what the layers computed."""

import io

import keras
import numpy as np
import pytest
from matplotlib import image as images

from keras_attention.training import AttentionImages, TrainingConfig, fit
from tests.training import worker
from tests.training.boards import read

IDS = worker.examples(count=2)[0]
TOKENS = [[f"t{i}" for i in row[row > 0]] for row in IDS]


def _fit(tmp_path, epochs=2, **options):
    callback = AttentionImages(tmp_path, IDS, **options)
    config = TrainingConfig(epochs=epochs, progress=False)
    return fit(lambda: worker.build({}, dropout=0.3), worker.dataset(), None, config, [callback]), callback


def test_every_layer_and_example_has_an_image_after_every_epoch(tmp_path):
    _fit(tmp_path, tokens=TOKENS)
    reader = read(tmp_path / "attention")
    tags = reader.Tags()["images"]
    assert len(tags) == 4
    blocks = {tag.split("/")[0] for tag in tags}
    assert sorted(tags) == sorted(f"{block}/self_attention/{i}" for block in blocks for i in range(2))
    for tag in tags:
        events = reader.Images(tag)
        assert [event.step for event in events] == [6, 12]
        pictures = [images.imread(io.BytesIO(event.encoded_image_string)) for event in events]
        assert [picture.shape[:2] for picture in pictures] == [(event.height, event.width) for event in events]
        assert (pictures[0] != pictures[1]).any()


def test_chosen_layers_heads_and_epochs(tmp_path, monkeypatch):
    drawn = []
    draw = AttentionImages._draw
    monkeypatch.setattr(
        AttentionImages, "_draw", lambda self, tag, scores, i: drawn.append((tag, scores)) or draw(self, tag, scores, i)
    )
    trained, _ = _fit(tmp_path, epochs=4, layers=["self_attention"], heads=[1], every_epochs=2)
    reader = read(tmp_path / "attention")
    assert [event.step for event in reader.Images(reader.Tags()["images"][0])] == [12, 24]
    blocks = [layer for layer in trained.model.layers if hasattr(layer, "self_attention")]
    x = trained.model.layers[1](IDS)
    for block in blocks:
        x, scores = block(x, return_attention_scores=True, training=False)
        for example in range(2):
            last = [drawing for tag, drawing in drawn if tag == f"{block.name}/self_attention/{example}"][-1]
            np.testing.assert_allclose(last, scores["self"][example], atol=1e-6)


def test_a_resumed_run_goes_on_with_its_images(tmp_path):
    def run(epochs):
        keras.utils.clear_session()  # as in a process of its own: Keras numbers the layers of a kind
        config = TrainingConfig(epochs=epochs, progress=False, checkpoint_folder=tmp_path / "checkpoints")
        callback = AttentionImages(tmp_path, IDS[:1])
        fit(lambda: worker.build({}, layers=1), worker.dataset(), None, config, [callback])

    run(1)
    run(3)
    reader = read(tmp_path / "attention")
    (tag,) = reader.Tags()["images"]
    assert [event.step for event in reader.Images(tag)] == [6, 12, 18]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"layers": ["blok"]},
            r"`layers` must name attention layers of the model \(.*self_attention.*\).*layers='blok'",
        ),
        ({"heads": [0, 2]}, r"`heads` must be from 0 to 1 for the layer .*Received: heads=\[0, 2\]"),
        ({"heads": [-1]}, "`heads` must be from 0 to 1"),
        ({"tokens": [["a"]]}, "`tokens` must be a list for each of the 2 examples.*length 1"),
        ({"every_epochs": 0}, "`every_epochs` must be a positive integer.*every_epochs=0"),
    ],
)
def test_what_the_model_does_not_have_is_refused_before_it_trains(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        _fit(tmp_path, **options)


def test_no_examples_and_a_folder_that_is_a_file_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`examples` must hold an example"):
        AttentionImages(tmp_path, IDS[:0])
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"`folder` must be a folder.*Received: folder="):
        AttentionImages(tmp_path / "file", IDS)


def test_keras_own_fit_is_told_what_is_missing(tmp_path):
    model = worker.build({}, layers=1)
    with pytest.raises(RuntimeError, match=r"AttentionImages is for keras_attention\.training\.fit"):
        model.fit(worker.dataset(), verbose=0, callbacks=[AttentionImages(tmp_path, IDS)])
