"""JSON to arrays and back without a server: what parsers disagree on, and the two ways in which values are read."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_attention.serving.errors import ServingError
from keras_attention.serving.protocol import DataType
from keras_attention.serving.rest_json import parse_document
from keras_attention.serving.rest_output import to_json, writable
from keras_attention.serving.rest_predict import write_predictions
from keras_attention.serving.rest_tensors import check_array, read_array

quick = settings(max_examples=200, deadline=None)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"", "The document is empty"),
        (b"  \n", "The document is empty. at offset: 3"),
        (b"nope", "Invalid value. at offset: 0"),
        (b'{"a": }', "Invalid value. at offset: 6"),
        (b'{"a" 1}', "Missing a colon after a name of object member. at offset: 5"),
        (b"{a: 1}", "Missing a name for object member. at offset: 1"),
        (b'{"a": 1', "Missing a comma or } after an object member. at offset: 7"),
        (b'{"}]": [1 2]}', "Missing a comma or ] after an array element. at offset: 10"),
        (b'{"a": [1], "b" : {} 2}', "Missing a comma or } after an object member. at offset: 20"),
        (b"{} {}", "The document root must not be followed by other values. at offset: 3"),
        (b'{"a": "b', "Missing a closing quotation mark in string. at offset: 6"),
        (b'{"a": "\\x"}', "Invalid escape character in string. at offset: 7"),
        (b'{"a": "\xff"}', "Invalid encoding in string. at offset: 7"),
        (b'{"a": "\\ud800"}', "The surrogate pair in string is invalid."),
        (b'{"a": 1e999}', "Number too big to be stored in double."),
        (b'{"a": NaN, "b": 1e999}', "Number too big to be stored in double."),
        (b'{"a": NaN, "b": 1' + b"0" * 5000 + b"}", "Number too big to be stored in double."),
        (b"[" * 100_000, "The document is nested too deeply."),
    ],
)
def test_what_is_no_json_is_refused_in_the_words_of_tensorflow_serving(body, fault):
    with pytest.raises(ServingError) as caught:
        parse_document(body)
    assert str(caught.value) == f"INVALID_ARGUMENT: JSON Parse error: {fault}"


def test_a_long_value_is_cut_in_a_message():
    with pytest.raises(ServingError) as caught:
        parse_document(json.dumps(["x"] * 1_000_000).encode())
    assert len(str(caught.value)) < 1100
    assert "...TRUNCATED Is not object" in str(caught.value)


@pytest.mark.parametrize("more", ["", ', "b": NaN'])
def test_whole_numbers_that_fit_no_64_bits_are_floats(more):
    text = f'{{"a": [{2**63}, {2**64 - 1}, {2**64}, {-(2**63)}, {-(2**63) - 1}]{more}}}'
    values = parse_document(b"\xef\xbb\xbf" + text.encode())["a"]
    assert [type(value) for value in values] == [int, int, float, int, float]


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=3),
    st.builds(lambda text: {"b64": text}, st.text("AQw=!", max_size=4)),
    st.builds(lambda text: {"b65": text}, st.text(max_size=2)),
)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3), max_leaves=8)
kinds = st.sampled_from(["STRING", "BOOL", "FLOAT", "DOUBLE", "INT8", "INT32", "INT64", "UINT8", "UINT64"])


@quick
@given(value=values, kind=kinds)
def test_what_cannot_be_read_is_explained_and_what_can_is_not(value, kind):
    data_type = DataType.Value(f"DT_{kind}")
    array = read_array(value, data_type)
    if array is None:
        with pytest.raises(ServingError, match=r"INVALID_ARGUMENT: \S"):
            check_array(value, data_type)
    else:
        assert check_array(value, data_type) == array.shape


def test_lists_deeper_than_any_tensor_are_refused():
    value = 1
    for _ in range(900):
        value = [value]
    assert read_array(value, DataType.Value("DT_INT32")) is None
    with pytest.raises(ServingError, match="deeper than a tensor's 64 dimensions"):
        check_array(value, DataType.Value("DT_INT32"))


@quick
@given(st.lists(st.floats(width=32)), st.lists(st.floats()))
def test_floats_are_written_so_that_they_are_read_back_bit_for_bit(singles, doubles):
    value = {"f": writable("f", np.float32(singles)), "d": [*writable("d", np.float64(doubles))]}
    read = json.loads(to_json(value))
    np.testing.assert_array_equal(np.float32(read["f"]), np.float32(singles), strict=True)
    np.testing.assert_array_equal(np.float64(read["d"]), np.float64(doubles), strict=True)
    assert all(len(repr(number)) <= 14 for number in read["f"] if 1e-4 < abs(number) < 1e7)


def test_arrays_that_are_no_contiguous_block_are_written_right():
    array = np.arange(6, dtype=np.int32).reshape(2, 3).T
    assert json.loads(to_json({"y": writable("y", array)})) == {"y": array.tolist()}


@pytest.mark.parametrize("dtype", [np.float16, np.complex64, np.uint16])
def test_types_that_tensorflow_serving_does_not_write_are_refused(dtype):
    with pytest.raises(ServingError, match="Failed to write JSON value for tensor type: "):
        writable("y", np.ones(2, dtype))


def test_an_output_without_dimensions_is_no_list_of_rows():
    with pytest.raises(ServingError, match="Tensor name: y has no shape information "):
        write_predictions({"y": np.array(3.0, np.float32)})


def test_strings_of_outputs_named_bytes_are_base64_objects():
    strings = np.array([[b"\xff\0"], [b"a"]], object)
    assert json.loads(to_json({"y": writable("image_bytes", strings)})) == {"y": [[{"b64": "/wA="}], [{"b64": "YQ=="}]]}
    assert writable("text", strings[1]) == ["a"]
