"""Export: what is right is written whole and checked, what is broken is refused and leaves nothing behind."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import ClassifyLog, PredictionLog

from keras_attention.layers import TokenAndPositionEmbedding, TransformerBlock
from keras_attention.serving import ExportError, ServingFunction, VerificationError, export, exporter, verify
from keras_attention.serving.servable import Servable

TEXT = {"text": tf.TensorSpec([None], tf.string)}
NUMBERS = {"x": tf.TensorSpec([None, 2], tf.float32)}
TEXTS = {"serving_default": [{"text": ["one", "two"]}]}
PAIRS = {"serving_default": [{"x": [[1.0, 2.0], [3.0, 4.0]]}]}


def dense():
    layer = keras.layers.Dense(3)
    layer.build((None, 2))
    return layer


def run(version, inputs, signature="serving_default"):
    """Runs a version in TensorFlow's session loader, the C++ path of TensorFlow Serving."""
    servable = Servable(version)
    try:
        return servable.run(servable.signature(signature), inputs)
    finally:
        servable.close()


def test_a_model_a_table_and_a_default_are_exported_and_answer_in_the_session_loader(tmp_path):
    layer = dense()
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["one", "two"], [1.0, 2.0]), 0.0)

    def score(text, scale):
        x = table.lookup(text)
        return {"score": layer(tf.stack([x, x], axis=1)) * scale[:, tf.newaxis], "text": tf.strings.upper(text)}

    version = export(
        tmp_path / "scores",
        {
            "serving_default": ServingFunction(
                score, {**TEXT, "scale": tf.TensorSpec([None], tf.float32)}, {"scale": 2.0}
            )
        },
        [layer, table],
        {"serving_default": [{"text": ["one", "two", "three"]}, {"text": ["two"], "scale": [5.0]}]},
        metadata={"seed": 7},
    )
    assert version == tmp_path / "scores" / "1"
    assert [entry.name for entry in version.parent.iterdir()] == ["1"]
    texts = np.array([b"two", b"one"], object)
    # TensorFlow Serving feeds a default as it is stored, as one row, whatever the batch.
    outputs = run(version, {"text": texts, "scale": np.array([2.0], "float32")})
    expected = np.asarray(layer(np.array([[2.0, 2.0], [1.0, 1.0]]))) * 2
    np.testing.assert_allclose(outputs["score"], expected, rtol=1e-5)
    assert outputs["text"].tolist() == [b"TWO", b"ONE"]
    definition = Servable(version).signature_defs["serving_default"]
    assert set(definition.inputs) == {"text", "scale"}
    assert set(definition.outputs) == {"score", "text"}
    assert tf.make_ndarray(definition.defaults["scale"]).tolist() == [2.0]
    metadata = json.loads((version / "assets.extra" / "metadata.json").read_text())
    assert metadata["seed"] == 7
    assert metadata["libraries"]["tensorflow"] == tf.__version__
    assert verify(version.parent).signatures == {"serving_default": 2}


def test_a_second_export_is_the_next_version_and_the_newest_is_verified(tmp_path):
    function = {"serving_default": ServingFunction(lambda text: {"out": tf.strings.lower(text)}, TEXT)}
    (tmp_path / "m" / "not-a-version").mkdir(parents=True)
    (tmp_path / "m" / "7").mkdir()
    assert export(tmp_path / "m", function, [], TEXTS).name == "8"
    assert verify(tmp_path / "m").path.name == "8"


def test_exports_at_the_same_time_take_different_versions(tmp_path):
    versions, function = [], {"serving_default": ServingFunction(lambda text: {"out": text}, TEXT)}
    threads = [
        threading.Thread(target=lambda: versions.append(export(tmp_path / "m", function, [], TEXTS).name))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert sorted(versions) == ["1", "2"]
    assert sorted(entry.name for entry in (tmp_path / "m").iterdir()) == ["1", "2"]


def test_a_model_inside_a_tf_module_is_exported_with_its_variables(tmp_path):
    # keras#20095: TensorFlow alone would write the module without them.
    module = tf.Module()
    module.layer = dense()
    version = export(
        tmp_path / "m", {"serving_default": ServingFunction(lambda x: {"y": module.layer(x)}, NUMBERS)}, [module], PAIRS
    )
    x = np.ones((1, 2), "float32")
    np.testing.assert_allclose(run(version, {"x": x})["y"], module.layer(x), rtol=1e-5)


def test_the_weights_of_a_layer_in_a_tf_module_are_stored_once(tmp_path):
    module = tf.Module()
    module.layer = keras.layers.Dense(300)
    module.layer.build((None, 300))
    function = ServingFunction(lambda x: {"y": module.layer(x)}, {"x": tf.TensorSpec([None, 300])})
    examples = {"serving_default": [{"x": np.ones([2, 300])}]}
    version = export(tmp_path / "m", {"serving_default": function}, [module], examples)
    stored = (version / "variables" / "variables.data-00000-of-00001").stat().st_size
    assert stored < 1.2 * sum(weight.numpy().nbytes for weight in module.layer.weights)


def test_a_table_and_a_file_in_a_tf_module_travel_with_the_export(tmp_path):
    words, note = tmp_path / "words.txt", tmp_path / "note.txt"
    words.write_text("one\ntwo\n")
    note.write_text("noted")
    module = tf.Module()
    initializer = tf.lookup.TextFileInitializer(
        str(words), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    module.table = tf.lookup.StaticHashTable(initializer, -1)
    module.note = tf.saved_model.Asset(str(note))

    def call(text):
        return {"id": module.table.lookup(text), "note": tf.fill(tf.shape(text), tf.io.read_file(module.note))}

    version = export(tmp_path / "m", {"serving_default": ServingFunction(call, TEXT)}, [module], TEXTS)
    words.unlink()
    note.unlink()
    outputs = run(version, {"text": np.array([b"two", b"three"], object)})
    assert outputs["id"].tolist() == [1, -1]
    assert outputs["note"].tolist() == [b"noted"] * 2


def test_only_what_a_dead_export_of_this_host_left_is_cleared_away(tmp_path, monkeypatch):
    def no_such_process(process, signal):
        raise ProcessLookupError

    monkeypatch.setattr(os, "kill", no_such_process)
    mine = f".export-{socket.gethostname()}-"
    others = {f"{mine}gpu-123-0123abcd", f"{mine}99999999-123-0123abcd", f"{mine}123-abcd", "notes"}
    for name in (*others, f"{mine}123-0123abcd"):
        (tmp_path / name).mkdir()
    export(tmp_path, {"serving_default": ServingFunction(lambda text: {"out": text}, TEXT)}, [], TEXTS)
    assert {entry.name for entry in tmp_path.iterdir()} == {*others, "1"}


def test_the_limit_of_warm_up_records_is_for_all_signatures_together(tmp_path):
    function = ServingFunction(lambda text: {"out": text}, TEXT)
    examples = [{"text": ["one"]}] * 501
    with pytest.raises(ExportError, match="1002 examples in all; TensorFlow Serving reads 1000 at most"):
        export(tmp_path / "m", {"a": function, "b": function}, [], {"a": examples, "b": examples})


@pytest.mark.parametrize("metadata", [{"loss": float("nan")}, {"model": object()}, ["a list"]])
def test_metadata_that_json_cannot_say_is_refused_before_anything_is_traced(metadata, tmp_path):
    def call(text):
        raise AssertionError("it was traced")

    with pytest.raises(ExportError, match="`metadata` must be"):
        export(tmp_path / "m", {"serving_default": ServingFunction(call, TEXT)}, [], TEXTS, metadata)


def test_a_library_under_another_name_has_no_version_in_the_metadata(tmp_path, monkeypatch):
    def only_cpu(name, version=exporter.importlib.metadata.version):
        return version("tensorflow-by-another-name" if name == "tensorflow" else name)

    monkeypatch.setattr(exporter.importlib.metadata, "version", only_cpu)
    function = ServingFunction(lambda text: {"out": text}, TEXT)
    version = export(tmp_path / "m", {"serving_default": function}, [], TEXTS)
    libraries = json.loads((version / "assets.extra" / "metadata.json").read_text())["libraries"]
    assert libraries["tensorflow"] is None
    assert libraries["keras"] == keras.__version__


def test_a_method_that_is_a_tf_function_is_exported_whatever_it_calls_its_object(tmp_path):
    version = export(tmp_path / "m", {"serving_default": ServingFunction(Method().call, TEXT)}, [], TEXTS)
    assert run(version, {"text": np.array([b"x"], object)})["out"].tolist() == [b"x"]


def test_random_numbers_from_a_seed_that_is_an_input_are_served(tmp_path):
    def sample(seed):
        return {
            "number": tf.map_fn(lambda s: tf.random.stateless_uniform([2], s), seed, fn_output_signature=tf.float32)
        }

    inputs = {"seed": tf.TensorSpec([None, 2], tf.int32)}
    version = export(
        tmp_path / "m",
        {"serving_default": ServingFunction(sample, inputs)},
        [],
        {"serving_default": [{"seed": [[1, 2], [3, 4]]}, {"seed": [[5, 6]]}]},
    )
    numbers = run(version, {"seed": np.array([[1, 2], [1, 2], [9, 9]], "int32")})["number"]
    np.testing.assert_array_equal(numbers[0], numbers[1])
    assert np.abs(numbers[0] - numbers[2]).max() > 0


class Method:
    @tf.function
    def call(this, text):
        return {"out": text}


def unmasked_pooling():
    """Token states averaged over padding too: the classic export whose answers change with the batch."""
    ids = keras.Input((None,), dtype="int32")
    states = TransformerBlock(2, 8)(TokenAndPositionEmbedding(10, 10, 4)(ids))
    model = keras.Model(ids, keras.ops.mean(states, axis=1))

    def call(text):
        tokens = tf.strings.to_number(tf.strings.split(text), tf.int32).to_tensor()
        return {"pooled": model(tokens)}

    return ServingFunction(call, TEXT), [model]


def broken():
    """name -> (function, resources, examples, what the message says)"""
    layer, other = dense(), dense()
    hidden = type("Plain", (), {})()
    hidden.layer = layer
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], ["b"]), "")
    generator = keras.random.SeedGenerator(1)
    compiled = tf.function(lambda x: x * 2, jit_compile=True)
    pooled, pooled_resources = unmasked_pooling()
    two = tf.constant([1.0, 2.0])
    counter = tf.Variable(0.0)
    drawn, truncated = tf.random.Generator.from_seed(1), tf.random.stateless_parameterized_truncated_normal
    dropout = keras.layers.Dropout(0.5, seed=1)

    def numbers(function):
        return ServingFunction(function, NUMBERS)

    def texts(function):
        return ServingFunction(function, TEXT)

    unfit = {"serving_default": [{"x": [["a", "b"]]}]}
    ragged = {"serving_default": [{"x": [[1.0, 2.0, 3.0]]}]}
    single = {"serving_default": [{"x": [[1.0, 2.0]]}]}
    no_rows = {"serving_default": [*PAIRS["serving_default"], {"x": np.zeros([0, 2])}]}
    uneven = {"serving_default": [{"x": [[1.0, 2.0], [3.0, 4.0]], "k": [1]}]}
    pooling_examples = {"serving_default": [{"text": ["1 2"]}, {"text": ["3 4 5 6 7"]}]}
    return {
        "a model that is not among the resources": (
            numbers(lambda x: {"y": layer(x)}), [], PAIRS, r"uses variables that nothing in `resources` holds: .*kernel"
        ),
        "another model among the resources": (numbers(lambda x: {"y": layer(x)}), [other], PAIRS, "Could not find var"),
        "a model inside a plain object": (
            numbers(lambda x: {"y": hidden.layer(x)}), [hidden], PAIRS, "Received: Plain"
        ),
        "a layer without weights": (numbers(lambda x: {"y": x}), [keras.layers.Dense(2)], PAIRS, "no weights yet"),
        "a table that is not among the resources": (
            texts(lambda text: {"out": table.lookup(text)}), [], TEXTS, "a table or another resource"
        ),
        "a tensor without a name": (numbers(lambda x: x), [], PAIRS, "dict of named outputs"),
        "a list": (numbers(lambda x: [x]), [], PAIRS, "'output_0'"),
        "a ragged output": (texts(lambda text: {"out": tf.strings.split(text)}), [], TEXTS, "RaggedTensor.*to_tens"),
        "a sparse output": (numbers(lambda x: {"y": tf.sparse.from_dense(x)}), [], PAIRS, "is a SparseTensor"),
        "an output that is no tensor": (numbers(lambda x: {"y": "z"}), [], PAIRS, "must be a tensor"),
        "an output without rows": (numbers(lambda x: {"y": tf.reduce_sum(x)}), [], PAIRS, "one row for each row"),
        "an output with a fixed number of rows": (numbers(lambda x: {"y": two}), [], PAIRS, r"shape \(2,\)"),
        "a Keras seed generator": (
            numbers(lambda x: {"y": x + keras.random.uniform((2,), seed=generator)}), [], PAIRS, "seed an input"
        ),
        "Keras's global seed generator": (
            numbers(lambda x: {"y": x + keras.random.uniform((2,))}), [], PAIRS, "Keras seed generator"
        ),
        "a constant seed": (
            numbers(lambda x: {"y": x + tf.random.stateless_uniform([2], [1, 2])}), [], PAIRS, "same sample for ever"
        ),
        "a constant seed in Keras": (
            numbers(lambda x: {"y": x + keras.random.normal((2,), seed=3)}), [], PAIRS, "same sample for ever"
        ),
        "a constant seed of a binomial": (
            numbers(lambda x: {"y": x + tf.random.stateless_binomial([2], [1, 2], x[0], 0.5, tf.float32)}),
            [], PAIRS, "same sample for ever",
        ),
        "a constant seed of a truncated normal": (
            numbers(lambda x: {"y": x + truncated([2], [1, 2], x[0, 0])}), [], PAIRS, "same sample for ever"
        ),
        "a variable that counts": (
            numbers(lambda x: {"y": x + counter.assign_add(1.0)}), [counter], PAIRS, "depend on the requests before"
        ),
        "a generator of TensorFlow": (
            numbers(lambda x: {"y": x + drawn.uniform([2])}), [drawn], PAIRS, "make the seed an input"
        ),
        "dropout that drops": (
            numbers(lambda x: {"y": dropout(x, training=True)}), [dropout], PAIRS, "changes a variable.*SeedGenerator"
        ),
        "random numbers without a seed": (
            numbers(lambda x: {"y": x + tf.random.uniform([2])}), [], PAIRS, "that no seed can repeat"
        ),
        "a call back into Python": (
            numbers(lambda x: {"y": tf.ensure_shape(tf.numpy_function(lambda v: v, [x], tf.float32), [None, 2])}),
            [], PAIRS, "calls back into Python",
        ),
        "a function compiled for XLA": (numbers(lambda x: {"y": compiled(x)}), [], PAIRS, "jit_compile"),
        "pooling without the mask": (pooled, pooled_resources, pooling_examples, "must not depend on its batch"),
        "an answer that looks at its batch": (
            numbers(lambda x: {"y": x - tf.reduce_mean(x)}), [], PAIRS, "must not depend on its batch.*ties at a thresh"
        ),
        "a single row, which has no batch to look at": (
            numbers(lambda x: {"y": x - tf.reduce_mean(x)}), [], single, "two rows at least"
        ),
        "an example without rows": (numbers(lambda x: {"y": x}), [], no_rows, "example 1 .* at least one.*'x': 0"),
        "an example of uneven inputs": (
            ServingFunction(lambda x, k: {"y": x}, {**NUMBERS, "k": tf.TensorSpec([None])}), [], uneven,
            "the same number of rows.*'x': 2, 'k': 1",
        ),
        "a function that fails on an example": (
            texts(lambda text: {"out": tf.strings.to_number(text)}), [], TEXTS,
            "^signature 'serving_default' fails on example 0: StringToNumberOp could not .* string: one$",
        ),
        "a plain function": (lambda text: {"out": text}, [], TEXTS, r"must be a ServingFunction.*Received: function"),
        "an input that is only a shape": (
            ServingFunction(lambda x: {"y": x}, {"x": [None, 2]}), [], PAIRS, r"must be a tf.TensorSpec.*Received: list"
        ),
        "a Python condition on a tensor": (
            numbers(lambda x: {"y": x if x[0, 0] > 0 else -x}), [], PAIRS, "could not be traced"
        ),
        "no example": (numbers(lambda x: {"y": x}), [], {}, "has no example"),
        "an example for nothing": (numbers(lambda x: {"y": x}), [], {**PAIRS, "other": []}, "do not exist: other"),
        "an example without input": (numbers(lambda x: {"y": x}), [], {"serving_default": [{}]}, r"Missing: \['x'\]"),
        "an example of another type": (numbers(lambda x: {"y": x}), [], unfit, "does not fit TensorSpec"),
        "an example of another shape": (numbers(lambda x: {"y": x}), [], ragged, r"Received: shape \(1, 3\)"),
        "an input without the batch axis": (
            ServingFunction(lambda x: {"y": x}, {"x": tf.TensorSpec([2], tf.float32)}), [], PAIRS, "begin with the"
        ),
        "a default for nothing": (
            ServingFunction(lambda x: {"y": x}, NUMBERS, {"k": 1}), [], PAIRS, "which is not among its inputs"
        ),
        "only optional inputs": (
            ServingFunction(lambda x: {"y": x}, NUMBERS, {"x": [1.0, 2.0]}), [], PAIRS, "one input without a default"
        ),
        "an error of the function's own": (numbers(lambda x: 1 / 0), [], PAIRS, "ZeroDivisionError"),
    }  # fmt: skip


BROKEN = broken()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_export_is_refused_with_its_reason_and_leaves_nothing(name, tmp_path):
    function, resources, examples, message = BROKEN[name]
    with pytest.raises(ExportError, match=message) as refused:
        export(tmp_path / "models" / "m", {"serving_default": function}, resources, examples)
    assert ".export-" not in str(refused.value)  # The folder is gone by now.
    assert not (tmp_path / "models" / "m").exists()


def test_a_refused_export_leaves_the_versions_before_it_alone(tmp_path):
    good = {"serving_default": ServingFunction(lambda text: {"out": text}, TEXT)}
    bad = {"serving_default": ServingFunction(lambda text: {"out": tf.strings.split(text)}, TEXT)}
    export(tmp_path / "m", good, [], TEXTS)
    with pytest.raises(ExportError):
        export(tmp_path / "m", bad, [], TEXTS)
    assert [entry.name for entry in (tmp_path / "m").iterdir()] == ["1"]
    assert verify(tmp_path / "m").records == 1


def test_a_base_path_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "m").write_text("mine")
    with pytest.raises(ExportError, match="is a file"):
        export(tmp_path / "m", {"serving_default": ServingFunction(lambda text: {"out": text}, TEXT)}, [], TEXTS)
    assert (tmp_path / "m").read_text() == "mine"
    with pytest.raises(ExportError, match="`signatures` is empty"):
        export(tmp_path / "n", {}, [], {})


def test_what_tensorflow_writes_without_variables_fails_verification(tmp_path):
    """The broken export of keras#20095 itself, written by TensorFlow and given this package's records."""
    module = tf.Module()
    module.layer = dense()
    good = export(
        tmp_path / "m", {"serving_default": ServingFunction(lambda x: {"y": module.layer(x)}, NUMBERS)}, [module], PAIRS
    )
    function = tf.function(lambda x: {"y": module.layer(x)}, input_signature=[tf.TensorSpec([None, 2], name="x")])
    bad = tmp_path / "bad" / "1"
    tf.saved_model.save(module, str(bad), signatures={"serving_default": function})
    (good / "assets.extra").rename(bad / "assets.extra")
    with pytest.raises(VerificationError, match="needs what was not saved: Could not find variable"):
        verify(bad)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda v: _records(v).unlink(), "carries no warm-up records"),
        (lambda v: _records(v).write_bytes(b""), "is empty"),
        (lambda v: _records(v).write_bytes(_records(v).read_bytes()[:-1]), "file of warm-up records is damaged"),
        (lambda v: _write_records(v, [b"no protobuf"]), "warm-up record 1 is no PredictionLog"),
        (lambda v: _write_records(v, [PredictionLog(classify_log=ClassifyLog())]), "is no PredictionLog of a Predict"),
        (lambda v: _forget_the_response(v), "warm-up record 1 has a request and no stored response"),
        (lambda v: _write_records(v, _read_records(v) * 1001), "has 1001 warm-up records.* 1000 at most"),
        (lambda v: (v / "variables" / "variables.index").unlink(), "loader refuses it"),
        (lambda v: (v / "saved_model.pb").write_bytes(b"\x00"), "loader refuses it"),
        (lambda v: _change_a_weight(v), "Checksum does not match"),
        (lambda v: _change_a_response(v), "output 'y' differs by up to 1"),
    ],
    ids=[
        *("no records", "empty records", "a damaged record", "another record", "a record of another kind"),
        *("a request alone", "too many records", "no variables", "no graph", "a changed weight", "a changed response"),
    ],
)
def test_a_damaged_version_fails_verification(damage, message, ones, tmp_path):
    version = shutil.copytree(ones, tmp_path / "m" / "1")
    damage(version)
    with pytest.raises(VerificationError, match=message):
        verify(version)


@pytest.fixture(scope="module")
def ones(tmp_path_factory):
    """A version of a layer whose weights are ones."""
    layer = dense()
    layer.kernel.assign(np.ones((2, 3)))
    function = ServingFunction(lambda x: {"y": layer(x)}, NUMBERS)
    return export(tmp_path_factory.mktemp("ones"), {"serving_default": function}, [layer], PAIRS)


def _records(version):
    return version / "assets.extra" / "tf_serving_warmup_requests"


def _read_records(version):
    return [PredictionLog.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(_records(version)))]


def _write_records(version, records):
    with tf.io.TFRecordWriter(str(_records(version))) as writer:
        for record in records:
            writer.write(record if isinstance(record, bytes) else record.SerializeToString())


def _forget_the_response(version):
    logs = _read_records(version)
    logs[0].predict_log.ClearField("response")
    _write_records(version, logs)


def _change_a_weight(version):
    reader = tf.train.load_checkpoint(str(version / "variables" / "variables"))
    name = next(n for n, shape in reader.get_variable_to_shape_map().items() if shape == [2, 3])
    file = version / "variables" / "variables.data-00000-of-00001"
    before = reader.get_tensor(name).tobytes()
    content = file.read_bytes()
    assert before in content
    file.write_bytes(content.replace(before, np.full((2, 3), 2.0, "float32").tobytes()))


def _change_a_response(version):
    logs = _read_records(version)
    output = logs[0].predict_log.response.outputs["y"]
    output.CopyFrom(tf.make_tensor_proto(tf.make_ndarray(output) + 1))
    _write_records(version, logs)


@pytest.mark.parametrize("stored", [3, 2.5, b"two"], ids=["number", "other type", "text"])
def test_a_scalar_answer_other_than_the_stored_one_is_told(stored, tmp_path):
    """A SavedModel of another tool's, whose outputs have no rows."""
    function = tf.function(lambda x: {"n": tf.size(x)}, input_signature=[tf.TensorSpec([None], name="x")])
    tf.saved_model.save(tf.Module(), str(tmp_path / "1"), signatures={"serving_default": function})
    log = PredictionLog()
    log.predict_log.request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0, 2.0]))
    log.predict_log.response.outputs["n"].CopyFrom(tf.make_tensor_proto(stored))
    _records(tmp_path / "1").parent.mkdir()
    _write_records(tmp_path / "1", [log])
    with pytest.raises(VerificationError, match="record 1, against its stored response: output 'n' "):
        verify(tmp_path / "1")


def test_what_is_no_model_fails_verification(tmp_path):
    with pytest.raises(VerificationError, match="is not a folder"):
        verify(tmp_path / "nothing")
    with pytest.raises(VerificationError, match="no version folder"):
        verify(tmp_path)


EXPORTING = """
    import sys
    import tensorflow as tf
    from keras_attention.serving import ServingFunction, export

    weights = tf.Variable(tf.random.normal([4000, 4000]))
    export(
        sys.argv[1],
        {"serving_default": ServingFunction(lambda x: {"y": x @ weights}, {"x": tf.TensorSpec([None, 4000])})},
        [weights],
        {"serving_default": [{"x": tf.ones([2, 4000])}]},
    )
"""


@pytest.mark.parametrize("sign", ["**/variables.data*", "**/metadata.json"], ids=["while writing", "while checking"])
def test_an_export_that_is_killed_leaves_no_version_and_the_next_one_cleans_up(sign, tmp_path):
    base = tmp_path / "m"
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(EXPORTING), str(base)], start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        while not any(base.glob(".export-*/" + sign)):
            assert process.poll() is None, "the export ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
    left = [entry.name for entry in base.iterdir()]
    assert left
    assert not any(name.isdecimal() for name in left)
    with pytest.raises(VerificationError, match="no version folder"):
        verify(base)
    export(base, {"serving_default": ServingFunction(lambda text: {"out": text}, TEXT)}, [], TEXTS)
    assert [entry.name for entry in base.iterdir()] == ["1"]
