"""A person who opens TensorBoard in a browser sees the runs."""

import re
import shutil

import pytest
import tensorflow as tf

from keras_attention.training import (
    AttentionImages,
    EmbeddingProjector,
    HyperParameters,
    OptimizerConfig,
    PredictedTexts,
    TrainingConfig,
    fit,
)
from tests.training import worker
from tests.training.boards import Board

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")

RUNS = {"fast": 0.05, "slow": 0.001}
WORDS = ["[PAD]", *(f"word{i}" for i in range(1, worker.VOCABULARY))]
INPUTS = ["word3 word4 word5", "word8"]
MILLISECONDS = 60_000


def _predict(model, texts):
    ids = [[WORDS.index(word) for word in text.split()] for text in texts]
    predicted = model(tf.ragged.constant(ids).to_tensor()).numpy().argmax(-1)
    return [" ".join(WORDS[i] for i in row[: len(own)]) for row, own in zip(predicted, ids, strict=True)]


def _run(folder, rate):
    optimizer = OptimizerConfig(learning_rate=rate, schedule="cosine", warmup_steps=6, total_steps=30)
    ids = worker.examples(count=2)[0]
    callbacks = [
        AttentionImages(folder, ids, heads=[0, 1], tokens=[[WORDS[i] for i in row[row > 0]] for row in ids]),
        PredictedTexts(folder, _predict, INPUTS),
        EmbeddingProjector(folder, "embeddings", WORDS),
        HyperParameters(folder, optimizer),
    ]
    config = TrainingConfig(epochs=5, log_folder=folder, progress=False)
    return fit(lambda: worker.build(vars(optimizer)), worker.dataset(), worker.dataset(count=13), config, callbacks)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder of the runs, dict of what came of them)."""
    folder = tmp_path_factory.mktemp("runs")
    return folder, {name: _run(folder / name, rate) for name, rate in RUNS.items()}


@pytest.fixture(scope="module")
def board(trained, tmp_path_factory):
    """TensorBoard on the runs."""
    with Board(trained[0], tmp_path_factory.mktemp("board") / "log") as board:
        board.wait_for_runs(*(f"{name}/{run}" for name in RUNS for run in ("steps", "validation", "hparams", "texts")))
        yield board


@pytest.fixture(scope="module")
def browser():
    """Debian's chromium without a window."""
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def show(board, browser, tmp_path, request):
    """show(fragment) -> the page; a screenshot is left when the test ends."""
    page = browser.new_page(viewport={"width": 1600, "height": 1200})
    page.set_default_timeout(MILLISECONDS)
    api.expect.set_options(timeout=MILLISECONDS)

    def go(fragment):
        page.goto(f"{board.url}/#{fragment}")
        return page

    yield go
    page.screenshot(path=tmp_path / f"{request.node.name}.png")
    page.close()


def _last(result, name):
    return result.history.history[name][-1]


def test_time_series_shows_training_beside_validation_and_every_batch(show, trained):
    page = show("timeseries")
    tags = page.get_by_role("combobox", name="Filter tags (regex)")
    tags.fill("^(epoch|batch)_loss$")
    tags.press("Escape")  # its list would cover the cards
    for tag, runs in (("epoch_loss", {"train": "loss", "validation": "val_loss"}), ("batch_loss", {"steps": None})):
        card = page.locator("card-view").filter(has_text=tag)
        api.expect(card.locator("canvas, svg").first).to_be_visible()
        for name, result in trained[1].items():
            for run, metric in runs.items():
                row = card.locator("tb-data-table-content-row").filter(has_text=f"{name}/{run}")
                api.expect(row).to_contain_text("30")
                if metric:
                    numbers = [float(number) for number in re.findall(r"\d+\.\d+", row.inner_text())]
                    assert pytest.approx(_last(result, metric), abs=1e-3) in numbers


def test_scalars_shows_every_curve(show):
    page = show("scalars")
    for tag in ("epoch_loss", "epoch_accuracy", "batch_gradient_norm", "batch_learning_rate", "batch_steps_per_second"):
        group = page.get_by_text(tag, exact=True).first
        group.click()
        api.expect(page.get_by_text(f"tag: {tag}", exact=True)).to_be_visible()


def test_images_shows_what_each_head_attends_to(show):
    page = show("images")
    tag = page.get_by_text(re.compile(r"tag:\s+transformer_block\S*/self_attention/0")).first
    api.expect(tag).to_be_visible()
    api.expect(page.locator(".heading-label").filter(has_text=re.compile(r"step\s+30")).first).to_be_visible()
    picture = page.locator("tf-image-loader img").first
    api.expect(picture).to_be_visible()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 300


def test_hparams_compares_the_runs(show, trained):
    page = show("hparams")
    for name, rate in RUNS.items():
        result = trained[1][name]
        for cell in (str(trained[0] / name), f"{rate:#.5g}", f"{_last(result, 'accuracy'):#.5g}"):
            api.expect(page.get_by_text(cell, exact=True).first).to_be_visible()
    for column in ("learning_rate", "accuracy"):
        api.expect(page.locator("vaadin-grid-cell-content").get_by_text(column, exact=True).first).to_be_visible()


def test_text_shows_inputs_and_answers(show, trained):
    page = show("text")
    for result in trained[1].values():
        for answer in _predict(result.model, INPUTS):
            api.expect(page.get_by_role("cell", name=answer, exact=True).first).to_be_visible()


def test_histograms_and_the_graph_are_there(show):
    page = show("histograms")
    api.expect(page.get_by_text("tag: head_0/kernel", exact=True).first).to_be_visible()
    page = show("graphs")
    api.expect(page.get_by_text("Main Graph", exact=True)).to_be_visible()
