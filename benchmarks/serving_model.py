"""The model that the serving benchmark serves: a text classifier of 1.4 million parameters, and sentences to ask it.

    python -m benchmarks.serving_model runs/serving-benchmark

A WordPiece tokenizer in the graph, trained on the questions and answers of chatterbot-corpus (`make data`), two
transformer blocks of width 128, attention pooling, three classes. It is not trained: what it says is as quick as what a
trained one says. Nothing here imports TensorFlow before it is needed: the load generators read the sentences too.
"""

import json
import sys
from pathlib import Path

MODEL_NAME = "classifier"
LABELS = ("greeting", "question", "statement")
WIDTH, HEADS, INNER, BLOCKS = 128, 4, 512, 2
VOCABULARY_SIZE, SEQUENCE_LENGTH = 8000, 64
WORDS = (4, 24)  # of a sentence of ordinary length


def prepare(folder):
    """Exports the model and writes the sentences, unless the folder holds them already.

    Args:
        folder: pathlib.Path; the model goes to `folder/classifier/1`, the sentences to `folder/sentences.json`.

    Raises:
        SystemExit: if the corpus is not on this machine.
    """
    if (folder / MODEL_NAME).is_dir() and (folder / "sentences.json").is_file():
        return
    sentences = _read_sentences()
    folder.mkdir(parents=True, exist_ok=True)
    _export(folder / MODEL_NAME, sentences)
    (folder / "sentences.json").write_text(json.dumps(sentences), encoding="utf-8")


def read_sentences(folder):
    """The sentences that `prepare` wrote, as UTF-8."""
    return [text.encode() for text in json.loads((folder / "sentences.json").read_text("utf-8"))]


def _read_sentences():
    from applications.chatbot.data import read_entries
    from keras_attention import fetch

    corpus = fetch.find("chatterbot-corpus")
    if corpus is None:
        sys.exit("chatterbot-corpus is not on this machine: run `make data`")
    texts = {text for entry in read_entries(corpus) for text in (entry.question, entry.answer)}
    return sorted(text for text in texts if WORDS[0] <= len(text.split()) <= WORDS[1])


def _export(base_path, sentences):
    import keras
    import tensorflow as tf

    from keras_attention.layers import AttentionPooling, TokenAndPositionEmbedding, TransformerBlock
    from keras_attention.serving import ServingFunction, export
    from keras_attention.text import WordPieceTokenizer, train_word_piece_vocabulary

    keras.utils.set_random_seed(0)
    vocabulary = train_word_piece_vocabulary(sentences, VOCABULARY_SIZE, min_frequency=1, show_progress=False)
    tokenizer = WordPieceTokenizer(vocabulary, sequence_length=SEQUENCE_LENGTH)
    ids = keras.Input((None,), dtype="int32")
    x = TokenAndPositionEmbedding(VOCABULARY_SIZE, SEQUENCE_LENGTH, WIDTH)(ids)
    for _ in range(BLOCKS):
        x = TransformerBlock(HEADS, INNER)(x)
    x = AttentionPooling(HEADS, WIDTH // HEADS)(x)
    model = keras.Model(ids, keras.layers.Dense(len(LABELS), activation="softmax")(x))
    print(f"a classifier of {model.count_params():,} parameters, {len(sentences):,} sentences", file=sys.stderr)

    def classify(text):
        scores = model(tokenizer(text))
        return {"label": tf.gather(tf.constant(LABELS), tf.argmax(scores, axis=-1)), "scores": scores}

    export(
        base_path,
        signatures={"serving_default": ServingFunction(classify, inputs={"text": tf.TensorSpec([None], tf.string)})},
        resources=[model, tokenizer],
        # Batches of all the sizes that load makes: the first run of each is slower than the rest.
        examples={"serving_default": [{"text": sentences[:rows]} for rows in (1, 2, 4, 8, 16, 24, 32)]},
    )


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
