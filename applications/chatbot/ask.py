"""Asking: a run in this process, or a server."""

import sys


def ask(config):
    """Answers questions one after the other on the standard output."""
    for stream in (sys.stdin, sys.stdout):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="surrogateescape")  # a question that is not UTF-8 is asked and shown as it came
    answer = _live(config) if config.server is None else _remote(config)
    for question in config.questions or _lines():
        print(format_answer(question, answer(question.encode("utf-8", "surrogateescape"))), flush=True)


def format_answer(question, outputs):
    """One answer as a few lines of text."""
    text = f"> {question}\n  {outputs['answer']}\n"
    if outputs["answered"]:
        return text + f"  [{outputs['score']:.2f}, as for: {outputs['matched_question']}]"
    offers = [outputs["matched_question"], *outputs["alternatives"]]
    return text + f"  [{outputs['score']:.2f}, declined; nearest: {' | '.join(offers)}]"


def _lines():
    prompt = "Ask (an empty line ends): " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            return
        if line:
            yield line
        elif prompt:
            return


def _live(config):
    import tensorflow as tf

    from applications.chatbot import run

    bot = tf.function(run.load(config.run).chatbot(), input_signature=[tf.TensorSpec([None], tf.string)])

    def answer(question):
        outputs = bot(tf.constant([question]))
        return {name: as_text(value[0].numpy()) for name, value in outputs.items()}

    return answer


def as_text(value):
    """One row of an output, with its bytes as str."""
    if isinstance(value, bytes):
        return value.decode()
    return [item.decode() for item in value] if value.dtype.kind == "O" else value


def _remote(config):
    from keras_attention.serving import Client

    client = Client(config.server)

    def answer(question):
        outputs = client.predict(config.model, {"text": [question]})
        return {name: value[0] for name, value in outputs.items()}

    return answer
