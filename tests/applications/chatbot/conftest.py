"""A small catalogue of questions, written for these tests, and a bot that knows it."""

import dataclasses

import pytest

from applications.chatbot.config import ExportConfig, TrainConfig
from applications.chatbot.data import Entry
from applications.chatbot.export import export
from applications.chatbot.train import train

ENTRIES = [
    Entry("How can I reset my password?", "Open Settings, Security, and choose 'New password'.", "account"),
    Entry("How do I close my account?", "Write to us from the address that you registered with.", "account"),
    Entry("Where is my parcel?", "The tracking link is in the e-mail that confirmed your order.", "delivery"),
    Entry("How long does delivery take?", "Two to four working days.", "delivery"),
    Entry("How long will it be until my order arrives?", "Two to four working days.", "delivery"),
    Entry("Can I return a pair of shoes?", "Yes, unworn, within thirty days.", "returns"),
    Entry("When do I get my money back?", "Within five days after your parcel reached us.", "returns"),
    Entry("Which credit cards do you accept?", "Visa, Mastercard and American Express.", "payment"),
    Entry("Do you have shops in Zürich?", "Yes: one, at the main station, open every day.", "shops"),
    Entry("您们接受支付宝吗", "接受。", "payment"),
]
FALLBACK = "I would rather ask a colleague."


def write_csv(path, entries=ENTRIES):
    """Writes entries as a CSV file, every field quoted."""
    rows = [dataclasses.astuple(entry) for entry in entries]
    lines = ["question,answer,intent"] + [",".join('"' + f.replace('"', '""') + '"' for f in row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def made(minilm_folder, tmp_path_factory):
    """A run trained on the catalogue, with its folder."""
    folder = tmp_path_factory.mktemp("chatbot")
    config = TrainConfig(
        data=str(write_csv(folder / "faq.csv")),
        encoder=str(minilm_folder),
        output=folder / "run",
        fallback=FALLBACK,
        threshold=0.6,
    )
    return train(config), config.output


@pytest.fixture(scope="session")
def exported(made, tmp_path_factory):
    """The servable's folder with its first version."""
    return export(ExportConfig(made[1], tmp_path_factory.mktemp("saved") / "chatbot")).parent
