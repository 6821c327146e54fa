"""The bot from file to served answer, with the published encoder and a real server."""

import logging
import signal
import subprocess
import sys

import grpc
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from applications.chatbot import run
from applications.chatbot.__main__ import main
from applications.chatbot.config import HIGHEST_THRESHOLD, ExportConfig, TrainConfig
from applications.chatbot.data import Entry
from applications.chatbot.export import export, is_clear
from applications.chatbot.model import Chatbot
from applications.chatbot.train import train
from keras_attention.serving import Client, ServingError, verify
from tests.applications.chatbot.conftest import ENTRIES, FALLBACK, write_csv

PARAPHRASES = {
    "i forgot my password, how do I get a new one": ENTRIES[0].answer,
    "please delete my account": ENTRIES[1].answer,
    "WHEN WILL MY ORDER ARRIVE": ENTRIES[3].answer,
    "can i send back the shoes i bought?": ENTRIES[5].answer,
}
UNRELATED = ["Who won the world cup in 1990?", "Write a poem about the sea", "asdf qwer"]
HARD = [b"", b" \t\n ", b"\xff\xfe\x00caf\xe9", b"how long does delivery take? " * 3600]


def numpy(outputs):
    return {name: np.asarray(value) for name, value in outputs.items()}


@pytest.fixture(scope="module")
def bot(made):
    return made[0].chatbot()


def assert_same(got, expected):
    assert set(got) == set(expected)
    for name, value in expected.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(got[name], value, atol=1e-5)
        else:
            np.testing.assert_array_equal(got[name], value)


def test_a_paraphrase_is_answered_and_an_unrelated_question_is_not(bot):
    outputs = numpy(bot(tf.constant([*PARAPHRASES, *UNRELATED])))
    answers = [answer.decode() for answer in outputs["answer"]]
    assert answers == [*PARAPHRASES.values(), *[FALLBACK] * len(UNRELATED)]
    assert outputs["answered"].tolist() == [True] * len(PARAPHRASES) + [False] * len(UNRELATED)
    assert np.all((outputs["score"] >= 0.6) == outputs["answered"])


def test_a_question_of_the_catalogue_matches_itself_with_the_next_nearest_offered(bot):
    outputs = numpy(bot(tf.constant([entry.question for entry in ENTRIES])))
    assert [question.decode() for question in outputs["matched_question"]] == [entry.question for entry in ENTRIES]
    np.testing.assert_allclose(outputs["score"], 1, atol=1e-5)
    assert outputs["alternatives"].shape == outputs["alternative_scores"].shape == (len(ENTRIES), 3)
    assert np.all(np.diff(outputs["alternative_scores"], axis=1) <= 0)
    assert outputs["alternatives"][3, 0].decode() == ENTRIES[4].question


def test_empty_invalid_and_endless_texts_have_defined_answers(bot):
    outputs = numpy(bot(tf.constant(HARD)))
    assert outputs["answered"].tolist()[:3] == [False, False, False]
    assert outputs["score"][:2].tolist() == [0, 0]
    assert [answer.decode() for answer in outputs["answer"][:3]] == [FALLBACK] * 3
    cut = numpy(bot(tf.constant([HARD[3][:20_000]])))
    assert_same({name: value[3:] for name, value in outputs.items()}, cut)
    assert outputs["matched_question"][3].decode() == ENTRIES[3].question


@pytest.mark.parametrize("text", ["\u3000", "\u3000 \u2003", "\u200b", "\x00\x07", b"\xff\xfe"], ids=ascii)
def test_a_text_of_which_no_token_is_left_is_declined_with_score_0(text, bot):
    outputs = numpy(bot(tf.constant([text])))
    assert not outputs["answered"][0]
    assert outputs["score"][0] == 0


def test_a_text_alone_and_in_a_batch_with_longer_ones_gets_the_same(bot):
    texts = [*(text.encode() for text in PARAPHRASES), *HARD, b"shoes " * 200]
    together = numpy(bot(tf.constant(texts)))
    for row, text in enumerate(texts):
        alone = numpy(bot(tf.constant([text])))
        assert_same(alone, {name: value[row : row + 1] for name, value in together.items()})


def test_a_catalogue_of_one_question_offers_no_alternatives(made):
    single = made[0]
    bot = Chatbot(single.encoder, single.tokenizer, ["Hi?"], ["Hello"], single.embeddings[:1], 0.6, FALLBACK)
    outputs = numpy(bot(tf.constant(["x", "y"])))
    assert outputs["alternatives"].shape == (2, 0)


@pytest.mark.parametrize("language", ["chinese", "french", "english"])
def test_a_question_of_a_public_catalogue_is_answered_alone_and_in_a_batch(
    language, corpus_folder, minilm_folder, tmp_path
):
    config = TrainConfig(str(corpus_folder), language, str(minilm_folder), tmp_path / "run")
    learnt = train(config)
    assert len({embedding.tobytes() for embedding in learnt.embeddings}) == len(learnt.entries)
    assert 0.5 <= learnt.config["threshold"] <= HIGHEST_THRESHOLD
    bot = tf.function(learnt.chatbot(), input_signature=[tf.TensorSpec([None], tf.string)])
    questions = [entry.question for entry in learnt.entries[:: max(1, len(learnt.entries) // 60)]]
    together = numpy(bot(tf.constant([*questions, "long " * 60])))
    assert together["answered"][:-1].all()
    for row, question in enumerate(questions):
        alone = numpy(bot(tf.constant([question])))
        assert alone["answered"][0]
        assert alone["matched_question"][0].decode() == together["matched_question"][row].decode() == question


def test_questions_that_the_encoder_cannot_tell_apart_become_one_and_are_exported(minilm_folder, tmp_path, caplog):
    alike = [
        Entry("Où est la gare", "Au centre."),
        Entry("Ou est la gare", "Au nord."),
        Entry("OÙ est la  gare", "Au nord."),
    ]
    data = write_csv(tmp_path / "faq.csv", [*alike, *ENTRIES[:4]])
    with caplog.at_level(logging.INFO):
        learnt = train(TrainConfig(str(data), encoder=str(minilm_folder), output=tmp_path / "run"))
    assert [entry.answer for entry in learnt.entries].count("Au centre.") == 1
    assert len(learnt.entries) == 5
    assert "merged 1 questions with others of the same tokens" in caplog.text
    assert export(ExportConfig(tmp_path / "run", tmp_path / "saved")).name == "1"


def test_scores_too_close_to_tell_apart_are_not_what_an_export_is_checked_with():
    similarities = np.array(
        [
            [0.1, 0.9, 0.5, 0.3],
            [0.1, 0.9, 0.90001, 0.3],  # the best
            [0.9, 0.3, 0.5, 0.50001],  # the last that is shown, and the first that is not
            [0.9, 0.8, 0.1, 0.10001],  # what is not shown
            [0.60001, 0.1, 0.5, 0.3],  # the threshold
        ],
        "float32",
    )
    assert is_clear(similarities, 2, 0.6).tolist() == [True, False, False, True, False]
    assert is_clear(similarities, 1, 0.6).tolist() == [True, False, True, True, False]
    assert is_clear(similarities[:, :1], 1, 0.6).tolist() == [True, True, True, True, False]


def test_a_run_is_loaded_as_it_was_made(made, bot):
    again = run.load(made[1])
    assert again.entries == ENTRIES
    assert again.config["data_sha256"] == made[0].config["data_sha256"]
    texts = tf.constant(list(PARAPHRASES))
    assert_same(numpy(again.chatbot()(texts)), numpy(bot(texts)))


def test_the_exported_bot_is_verified_with_hard_texts_among_its_records(exported):
    assert verify(exported).records == 5


@pytest.fixture(scope="module")
def address(exported, serve):
    return serve(exported, "chatbot")


def test_stock_stubs_get_the_live_answers_over_grpc(address, bot):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "chatbot"
    texts = [*(text.encode() for text in (*PARAPHRASES, *UNRELATED)), *HARD]
    request.inputs["text"].CopyFrom(tf.make_tensor_proto(texts))
    with grpc.insecure_channel(address) as channel:
        response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=60)
    got = {name: tf.make_ndarray(value) for name, value in response.outputs.items()}
    assert_same(got, numpy(bot(tf.constant(texts))))


def test_a_bad_request_gets_a_clear_error_and_the_server_goes_on(address):
    with Client(address) as client:
        for inputs, signature, message in [
            ({"text": np.array([1.0], "float32")}, "serving_default", "to be string but float is provided"),
            ({"text": [["two"], ["ranks"]]}, "serving_default", r"expects shape \[\?\] but \[2,1\] is provided"),
            ({"question": ["x"]}, "serving_default", "Missing but required: {text}"),
            ({"text": ["x"]}, "shout", 'Serving signature key "shout" not found'),
        ]:
            with pytest.raises(ServingError, match=message):
                client.predict("chatbot", inputs, signature=signature)
        assert client.predict("chatbot", {"text": ["where is my parcel"]})["answer"][0] == ENTRIES[2].answer


def test_the_verbs_work_one_after_the_other_on_a_users_own_file(minilm_folder, tmp_path, capsys, serve):
    faq, made, saved = write_csv(tmp_path / "faq.csv"), tmp_path / "run", tmp_path / "saved" / "own"
    options = [f"--encoder={minilm_folder}", "--threshold=0.6", f"--output={made}"]
    assert main(["train", f"--data={faq}", *options]) == 0
    assert main(["export", f"--run={made}", f"--output={saved}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(saved / "1")
    question = "until when may I return the shoes?"
    assert main(["ask", f"--run={made}", question]) == 0
    live = capsys.readouterr().out
    assert "Yes, unworn, within thirty days." in live
    assert main(["ask", f"--server={serve(saved, 'own')}", "--model=own", question]) == 0
    assert capsys.readouterr().out == live

    test = write_csv(
        tmp_path / "test.csv",
        [*(Entry(q, a) for q, a in PARAPHRASES.items()), *(Entry(question, "") for question in UNRELATED)],
    )
    assert main(["evaluate", f"--run={made}", f"--data={test}", f"--output={tmp_path / 'report'}"]) == 0
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines()[-7:])
    assert printed["questions"] == "7"
    assert (printed["answered"], printed["accuracy"], printed["refused"]) == ("1.0", "1.0", "1.0")
    assert (tmp_path / "report" / "report.png").stat().st_size > 5000
    assert main(["evaluate", f"--run={made}"]) == 0
    left_out = dict(line.split() for line in capsys.readouterr().out.splitlines()[-7:])
    assert (left_out["in_scope"], left_out["out_of_scope"]) == ("2", "8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--data=nowhere.csv"], "no file or folder 'nowhere.csv'"),
        (["train", "--encoder=nowhere"], "no encoder folder at nowhere"),
        (["train", "--output=tests"], "exists and is not a run"),
        (["export", "--run=nowhere"], "nowhere is not a run of the chatbot: config.json is missing"),
        (["ask", "--run=nowhere", "hello"], "nowhere is not a run"),
        (["ask", "--server=127.0.0.1:1", "hello"], "no server answers at 127.0.0.1:1"),
        (["evaluate", "--run=nowhere"], "nowhere is not a run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_verb_that_cannot_work_says_why_and_exits_with_1(arguments, message, corpus_folder, capsys):
    assert main(arguments) == 1
    assert message in capsys.readouterr().err


def test_an_option_out_of_range_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--threshold=0.9995"])
    assert stopped.value.code == 2
    assert "threshold must be from 0 to 0.999. Received: 0.9995" in capsys.readouterr().err


def test_help_is_there_without_tensorflow():
    code = "import sys\nfrom applications.chatbot.__main__ import main\ntry:\n  main(['--help'])\nexcept SystemExit:\n"
    code += "  sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Build a bot from questions and answers" in done.stdout


def test_an_error_of_tensorflow_is_one_line(made, monkeypatch, capsys):
    def fail(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "out of memory")

    monkeypatch.setattr(run, "load", fail)
    assert main(["ask", f"--run={made[1]}", "hello"]) == 1
    assert capsys.readouterr().err == "chatbot: out of memory\n"


def test_lines_that_are_not_utf_8_are_asked_like_any_other_and_nothing_else_is_said(made, address):
    lines = b"where is my parcel\ncaf\xe9 open?\nwhen do you open\n"
    answers = []
    for whom in ([f"--run={made[1]}"], [f"--server={address}"]):
        command = [sys.executable, "-m", "applications.chatbot", "ask", *whom]
        done = subprocess.run(command, input=lines, capture_output=True, timeout=120, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        answers.append(done.stdout)
    live, remote = answers
    assert live.count(b"\n> ") + live.startswith(b"> ") == 3
    assert b"> caf\xe9 open?\n" in live
    assert remote == live


def test_a_demonstration_that_is_terminated_stops_its_server(exported, tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom applications.chatbot import config, demo\n"
        "demo.train = demo.export = lambda *_: None\ndemo._predict = lambda *_: time.sleep(60)\n"
        "demo.demo(config.DemoConfig(output=Path(sys.argv[1])))"
    )
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", code, str(exported)], stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        served = next(line for line in process.stdout if line.startswith("Serving"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 143
    finally:
        process.kill()
        process.wait(40)
        process.stdout.close()
    with pytest.raises(ServingError, match="no server answers"), Client(served.split(" at ")[1].split()[0]) as client:
        client.predict("chatbot", {"text": ["hello"]})


def test_a_failed_training_leaves_the_run_before_it_alone(made, minilm_folder, tmp_path):
    good = TrainConfig(data=str(write_csv(tmp_path / "faq.csv")), encoder=str(minilm_folder), output=tmp_path / "run")
    train(good)
    before = {path: path.stat().st_mtime_ns for path in good.output.rglob("*")}
    (tmp_path / "faq.csv").write_text("question,answer\nHi?,\n")
    with pytest.raises(ValueError, match="line 2: no answer"):
        train(good)
    assert {path: path.stat().st_mtime_ns for path in good.output.rglob("*")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faq.csv", "run"]


def test_a_trained_run_replaces_the_one_before(made, minilm_folder, tmp_path):
    data = write_csv(tmp_path / "faq.csv")
    config = {"data": str(data), "encoder": str(minilm_folder), "output": tmp_path / "run"}
    train(TrainConfig(**config, fallback="first"))
    train(TrainConfig(**config, fallback="second"))
    assert run.load(tmp_path / "run").config["fallback"] == "second"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faq.csv", "run"]


def test_the_embedding_is_the_scaled_mean_over_real_tokens(made):
    encoder, tokenizer = made[0].encoder, made[0].tokenizer
    ids = tokenizer(["Where is my parcel?"])
    states = np.asarray(encoder(ids))[0]
    expected = keras.ops.convert_to_numpy(states).mean(axis=0)
    np.testing.assert_allclose(made[0].embeddings[2], expected / np.linalg.norm(expected), atol=1e-5)
