"""The messages of three configuration files of TensorFlow Serving that its Python package leaves out.

`SSLConfig` (``--ssl_config_file``), `BatchingParameters` (``--batching_parameters_file``) and `MonitoringConfig`
(``--monitoring_config_file``) are made here, at run time, from the names and numbers of their fields. They live in a
descriptor pool of their own, where they cannot meet another package's definition of the same files.
"""

from google.protobuf import descriptor_pb2, wrappers_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

_Field = descriptor_pb2.FieldDescriptorProto
_WRAPPERS = "google/protobuf/wrappers.proto"
_INT64 = ".google.protobuf.Int64Value"


def _define(
    pool: DescriptorPool,
    file: str,
    message: str,
    fields: dict[str, tuple[int, int | str, bool]],
    imports: str = _WRAPPERS,
):
    """Adds a file with one message to the pool: its fields by name, as (number, type or message type, repeated)."""
    definition = descriptor_pb2.FileDescriptorProto(
        name=file, package="tensorflow.serving", syntax="proto3", dependency=[imports]
    )
    fields_of = definition.message_type.add(name=message).field
    for name, (number, kind, repeated) in fields.items():
        field = fields_of.add(
            name=name, number=number, label=_Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
        )
        if isinstance(kind, str):
            field.type, field.type_name = _Field.TYPE_MESSAGE, kind
        else:
            field.type = kind
    pool.AddSerializedFile(definition.SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName(f"tensorflow.serving.{message}"))


_pool = DescriptorPool()
_pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)

SSLConfig: type[Message] = _define(
    _pool,
    "tensorflow_serving/config/ssl_config.proto",
    "SSLConfig",
    {
        "server_key": (1, _Field.TYPE_STRING, False),
        "server_cert": (2, _Field.TYPE_STRING, False),
        "custom_ca": (3, _Field.TYPE_STRING, False),
        "client_verify": (4, _Field.TYPE_BOOL, False),
    },
)

BatchingParameters: type[Message] = _define(
    _pool,
    "tensorflow_serving/servables/tensorflow/session_bundle_config.proto",
    "BatchingParameters",
    {
        "max_batch_size": (1, _INT64, False),
        "batch_timeout_micros": (2, _INT64, False),
        "max_enqueued_batches": (3, _INT64, False),
        "num_batch_threads": (4, _INT64, False),
        "thread_pool_name": (5, ".google.protobuf.StringValue", False),
        "allowed_batch_sizes": (6, _Field.TYPE_INT64, True),
        "pad_variable_length_inputs": (7, _Field.TYPE_BOOL, False),
    },
)

# In TensorFlow Serving both are in one file, which makes no difference to their text.
_define(
    _pool,
    "tensorflow_serving/config/prometheus_config.proto",
    "PrometheusConfig",
    {"enable": (1, _Field.TYPE_BOOL, False), "path": (2, _Field.TYPE_STRING, False)},
)

MonitoringConfig: type[Message] = _define(
    _pool,
    "tensorflow_serving/config/monitoring_config.proto",
    "MonitoringConfig",
    {"prometheus_config": (1, ".tensorflow.serving.PrometheusConfig", False)},
    imports="tensorflow_serving/config/prometheus_config.proto",
)
