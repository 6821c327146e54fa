"""How the chatbot's label-free threshold behaves on labelled questions: CLINC150, validation split.

    KERAS_ATTENTION_DATA=... python -m benchmarks.chatbot_threshold

The catalogue is the 10-shot training set (few-shot-intent/CLINC150/train_10: seq.in and label), an intent being the
answer; asked are 600 in-scope validation questions (seed 0) and the 100 out-of-scope ones (clinc150/data_full.json).
Prints a row for each false_answer_rate.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

from applications.chatbot.calibration import calibrate
from applications.chatbot.train import embed_all
from keras_attention import fetch
from keras_attention.pretrained import load_bert

_RATES = (0.05, 0.1, 0.2, 0.3, 0.5)


def main():
    if "KERAS_ATTENTION_DATA" not in os.environ:
        sys.exit("set KERAS_ATTENTION_DATA to the folder that holds clinc150/ and few-shot-intent/")
    data = Path(os.environ["KERAS_ATTENTION_DATA"])
    folder = data / "few-shot-intent" / "CLINC150" / "train_10"
    questions = (folder / "seq.in").read_text("utf-8").splitlines()
    intents = np.array([_plain(label) for label in (folder / "label").read_text("utf-8").splitlines()])
    splits = json.loads((data / "clinc150" / "data_full.json").read_text("utf-8"))
    chosen = np.random.default_rng(0).permutation(len(splits["val"]))[:600]
    in_scope = [splits["val"][i] for i in chosen]

    encoder, tokenizer = load_bert(fetch.fetch("all-MiniLM-L6-v2"))
    catalogue = embed_all(encoder, tokenizer, questions)
    known = embed_all(encoder, tokenizer, [text for text, _ in in_scope]) @ catalogue.T
    unknown = embed_all(encoder, tokenizer, [text for text, _ in splits["oos_val"]]) @ catalogue.T
    right = intents[known.argmax(axis=1)] == [_plain(label) for _, label in in_scope]
    print("\nfalse_answer_rate  threshold  answered  right  declined")
    for rate in _RATES:
        threshold = calibrate(catalogue, intents.tolist(), rate)
        answered = known.max(axis=1) >= threshold
        declined = unknown.max(axis=1) < threshold
        print(
            f"{rate:17}  {threshold:9.3f}  {answered.mean():8.3f}  {right[answered].mean():.3f}  {declined.mean():8.3f}"
        )


def _plain(label):
    return label.replace("_", " ").strip()


if __name__ == "__main__":
    main()
