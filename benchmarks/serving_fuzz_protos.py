"""Messages of TensorFlow Serving's protocol made at random: right ones, right ones damaged, and wrong ones."""

import contextlib

from google.protobuf.message import DecodeError

from keras_attention.serving.protocol import (
    ClassificationRequest,
    DataType,
    Example,
    GetModelMetadataRequest,
    GetModelStatusRequest,
    ModelSpec,
    MultiInferenceRequest,
    PredictRequest,
    RegressionRequest,
    ReloadConfigRequest,
    TensorProto,
)

PREDICTION = "/tensorflow.serving.PredictionService"
_MODEL = "/tensorflow.serving.ModelService"
_RELOAD = f"{_MODEL}/HandleReloadConfigRequest"
_TYPES = {
    f"{PREDICTION}/Predict": PredictRequest,
    f"{PREDICTION}/Classify": ClassificationRequest,
    f"{PREDICTION}/Regress": RegressionRequest,
    f"{PREDICTION}/MultiInference": MultiInferenceRequest,
    f"{PREDICTION}/GetModelMetadata": GetModelMetadataRequest,
    f"{_MODEL}/GetModelStatus": GetModelStatusRequest,
    _RELOAD: ReloadConfigRequest,
}
METHODS = tuple(_TYPES)
_STRING, _FLOAT, _INT32, _INT64 = (DataType.Value(f"DT_{name}") for name in ("STRING", "FLOAT", "INT32", "INT64"))
_FIELDS = ("float_val", "double_val", "int_val", "int64_val", "bool_val", "half_val", "uint32_val", "uint64_val")
_SIZES = (0, 1, 1, 1, 2, 2, 2, 3, 100, -1, -(2**40), 2**40, 2**62)
_NAMES = ("text", "x", "factor", "ids", "data", "inputs", "", "Straße", "\0", "x:0", "__x")
# By the toy models: a signature, and its inputs with their dtypes and shapes.
_SIGNATURES = {
    "toy": {
        "": {"text": (_STRING, [2])},
        "scale": {"x": (_FLOAT, [1, 2]), "factor": (_FLOAT, [1])},
        "fixed": {"x": (_FLOAT, [2, 2])},
        "picky": {"text": (_STRING, [1])},
        "distinct": {"text": (_STRING, [3])},
        "widths": {"ids": (_INT32, [2, 3])},
    },
    "types": {"echo": {"data": (_STRING, [1])}, "int64": {"x": (_INT64, [2, 2])}, "divide": {"x": (_FLOAT, [1])}},
}


def tensor(chance, dtype, shape):
    """A right tensor."""
    proto = TensorProto(dtype=dtype, tensor_shape={"dim": [{"size": size} for size in shape]})
    if dtype == _STRING:
        proto.string_val.append(chance.choice([b"", b"Stra\xc3\x9fe", b"bad", b"\xff\xfe", b"\0", b"x" * 200]))
    else:
        field = {_FLOAT: proto.float_val, _INT32: proto.int_val, _INT64: proto.int64_val}[dtype]
        field.append(chance.randint(-9, 9))
    return proto


def a_message(chance):
    """A method and a message for it that is right."""
    model = chance.choice(["toy", "types"])
    signature = chance.choice(list(_SIGNATURES[model]))
    predict = PredictRequest(model_spec={"name": model, "signature_name": signature})
    for name, (dtype, shape) in _SIGNATURES[model][signature].items():
        predict.inputs[name].CopyFrom(tensor(chance, dtype, shape))
    entry = Example()
    entry.features.feature["x"].float_list.value.append(1.5)
    spec = ModelSpec(name="examples")
    tasks = [{"model_spec": spec, "method_name": "tensorflow/serving/classify"}]
    examples = {"example_list": {"examples": [entry] * chance.randint(1, 3)}}
    regress_spec = ModelSpec(name="examples", signature_name="regress")
    messages = (
        predict,
        ClassificationRequest(model_spec=spec, input=examples),
        RegressionRequest(model_spec=regress_spec, input=examples),
        MultiInferenceRequest(tasks=tasks, input=examples),
        GetModelMetadataRequest(model_spec={"name": model}, metadata_field=["signature_def"]),
        GetModelStatusRequest(model_spec={"name": model}),
        _refused_configuration(chance),
    )
    method, message = chance.choices(list(zip(METHODS, messages, strict=True)), [8, 2, 2, 2, 1, 1, 1])[0]
    return method, message.SerializeToString()


def _refused_configuration(chance):
    """A configuration that must be refused, so that the models stay."""
    request = ReloadConfigRequest()
    models = request.config.model_config_list.config
    models.add(name="toy", base_path="/", model_platform="tensorflow")
    faults = (
        {"name": "toy", "base_path": "/", "model_platform": "tensorflow"},
        {"name": "", "base_path": "/", "model_platform": "tensorflow"},
        {"name": "b", "base_path": "relative", "model_platform": "tensorflow"},
        {"name": "b", "base_path": "/no/such/folder", "model_platform": "tensorflow"},
        {"name": "b", "base_path": "/\0", "model_platform": "tensorflow"},
        {"name": "b", "base_path": "/" + "x" * 5000, "model_platform": "tensorflow"},
        {"name": "b", "base_path": "/", "model_platform": "pytorch"},
        {"name": "b", "base_path": "/"},
        {"name": "b", "base_path": "/", "model_platform": "tensorflow", "version_labels": {"x": 7}},
        {"name": "b", "base_path": "/", "model_type": 2},
    )
    models.add(**chance.choice(faults))
    return request


def damaged(chance, method, content):
    """A message with some of its bytes changed, taken out, put in or repeated; most often still a message."""
    if method == _RELOAD:
        # Damage may turn a configuration that must be refused into one that unloads the models that the others ask.
        return content
    for _ in range(chance.choice([1, 20])):
        attempt = _damaged_once(chance, content)
        with contextlib.suppress(DecodeError):
            _TYPES[method].FromString(attempt)
            break
    return attempt


def _damaged_once(chance, content):
    content = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(content) + 1)
        stop = min(start + chance.choice([0, 1, 1, 2, 8]), len(content))
        insert = [b"", bytes([chance.randrange(256)]), random_bytes(chance, 8), bytes(content[start:stop]) * 3]
        content[start:stop] = chance.choice(insert)
    return bytes(content[: chance.randrange(len(content) + 1)] if chance.random() < 0.1 else content)


def random_bytes(chance, most=300):
    """Up to so many bytes."""
    return chance.randbytes(chance.randint(0, most))


def a_predict_request(chance):
    """A well-formed Predict request that does not fit the model, or hardly."""
    model = chance.choice(["toy", "toy", "toy", "types"])
    signature = chance.choice(list(_SIGNATURES[model]))
    request = PredictRequest(model_spec={"name": model, "signature_name": signature})
    for name, (dtype, shape) in _SIGNATURES[model][signature].items():
        request.inputs[name].CopyFrom(tensor(chance, dtype, shape))
    change = chance.choice(
        [_odd_tensor, _odd_tensor, _odd_tensor, _odd_names, _many_inputs, _odd_spec, _odd_filter, _huge_strings]
    )
    change(chance, request)
    return request


def _odd_tensor(chance, request):
    """Another dtype, another rank, a shape that its content does not fill."""
    proto = request.inputs[chance.choice(list(request.inputs))]
    for change in chance.sample(["dtype", "rank", "sizes", "content", "values", "unknown"], chance.randint(1, 3)):
        if change == "dtype":
            proto.dtype = chance.choice([*range(24), 101, 102, 110, 120, 9999])
        elif change == "rank":
            del proto.tensor_shape.dim[:]
            for _ in range(chance.choice([0, 1, 2, 3, 5, 64, 65, 254, 300])):
                proto.tensor_shape.dim.add(size=1)
        elif change == "sizes":
            for dim in proto.tensor_shape.dim:
                dim.size = chance.choice(_SIZES)
        elif change == "content":
            proto.tensor_content = random_bytes(chance, 40)
        elif change == "values":
            values = getattr(proto, chance.choice(_FIELDS))
            values.extend([chance.choice([0, 1])] * chance.choice([0, 1, 3, 10_000]))
        else:
            proto.tensor_shape.unknown_rank = True


def _odd_names(chance, request):
    for _ in range(chance.randint(1, 3)):
        request.inputs[chance.choice(_NAMES)].CopyFrom(tensor(chance, _FLOAT, [1]))
    if chance.random() < 0.5:
        del request.inputs[chance.choice(list(request.inputs))]


def _many_inputs(chance, request):
    """Thousands of inputs, or one with thousands of rows."""
    if chance.random() < 0.5:
        for number in range(chance.choice([1000, 5000])):
            request.inputs[f"input {number}"].CopyFrom(TensorProto(dtype=_FLOAT, float_val=[1.0]))
        return
    for proto in request.inputs.values():
        for dim in proto.tensor_shape.dim[:1]:
            dim.size = chance.choice([1000, 20_000])


def _odd_spec(chance, request):
    spec = request.model_spec
    choice = chance.randrange(6)
    if choice == 0:
        spec.Clear()
    elif choice == 1:
        spec.name = chance.choice(["", "nobody", "\0", "x" * 100_000, "Straße"])
    elif choice == 2:
        spec.version.value = chance.choice([0, -1, 7, 2**63 - 1])
    elif choice == 3:
        spec.version_label = chance.choice(["", "stable", "no such", "x" * 10_000, "\n"])
    elif choice == 4:
        spec.signature_name = chance.choice(["no such", "__saved_model_init_op", "x" * 100_000, "\0", "SCALE"])
    else:
        request.ClearField("model_spec")


def _odd_filter(chance, request):
    names = ("folded", "raw_bytes", "y", "text", "no such", "", "x" * 5000)
    request.output_filter.extend(chance.choices(names, k=chance.choice([1, 2, 2000])))


def _huge_strings(chance, request):
    size = chance.choice([10_000, 1_000_000, 5_000_000])
    for proto in request.inputs.values():
        if proto.dtype == _STRING:
            proto.string_val[:] = [chance.choice([b"x", b"\xff", "ß".encode()]) * size]
