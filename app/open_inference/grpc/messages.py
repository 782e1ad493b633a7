"""The protocol's messages, from a table of their fields; no generated code.

Only fields that this server reads or writes are there: unknown ones are skipped on the wire, as protobuf has
it. They live in a pool of their own, so that a process may import `tritonclient`, which registers the same
names, beside them. Numbers and types: the KServe Open Inference Protocol V2 and Triton's `grpc_service.proto`
and `model_config.proto`, as documented; a test compares them with those that the clients carry.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pb2 as pb
from google.protobuf import descriptor_pool, message_factory

PACKAGE = "inference"

ENUMS = {
    "DataType": {"TYPE_INVALID": 0, "TYPE_FP32": 11},
    "ModelInstanceGroup.Kind": {"KIND_AUTO": 0, "KIND_GPU": 1, "KIND_CPU": 2, "KIND_MODEL": 3},
}

# A name that begins with ? is a choice of the message's one oneof.
MESSAGES = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live = 1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready = 1",
    "ModelReadyRequest": "string name = 1; string version = 2",
    "ModelReadyResponse": "bool ready = 1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name = 1; string version = 2; repeated string extensions = 3",
    "ModelMetadataRequest": "string name = 1; string version = 2",
    "ModelMetadataResponse": """string name = 1; repeated string versions = 2; string platform = 3;
        repeated ModelMetadataResponse.TensorMetadata inputs = 4;
        repeated ModelMetadataResponse.TensorMetadata outputs = 5""",
    "ModelMetadataResponse.TensorMetadata": "string name = 1; string datatype = 2; repeated int64 shape = 3",
    "InferParameter": """bool ?bool_param = 1; int64 ?int64_param = 2; string ?string_param = 3;
        double ?double_param = 4; uint64 ?uint64_param = 5""",
    "InferTensorContents": """repeated bool bool_contents = 1; repeated int32 int_contents = 2;
        repeated int64 int64_contents = 3; repeated uint32 uint_contents = 4;
        repeated uint64 uint64_contents = 5; repeated float fp32_contents = 6;
        repeated double fp64_contents = 7; repeated bytes bytes_contents = 8""",
    "ModelInferRequest": """string model_name = 1; string model_version = 2; string id = 3;
        map InferParameter parameters = 4; repeated ModelInferRequest.InferInputTensor inputs = 5;
        repeated ModelInferRequest.InferRequestedOutputTensor outputs = 6;
        repeated bytes raw_input_contents = 7""",
    "ModelInferRequest.InferInputTensor": """string name = 1; string datatype = 2; repeated int64 shape = 3;
        map InferParameter parameters = 4; InferTensorContents contents = 5""",
    "ModelInferRequest.InferRequestedOutputTensor": "string name = 1; map InferParameter parameters = 2",
    "ModelInferResponse": """string model_name = 1; string model_version = 2; string id = 3;
        map InferParameter parameters = 4; repeated ModelInferResponse.InferOutputTensor outputs = 5;
        repeated bytes raw_output_contents = 6""",
    "ModelInferResponse.InferOutputTensor": """string name = 1; string datatype = 2;
        repeated int64 shape = 3; map InferParameter parameters = 4; InferTensorContents contents = 5""",
    "ModelStreamInferResponse": "string error_message = 1; ModelInferResponse infer_response = 2",
    "ModelConfigRequest": "string name = 1; string version = 2",
    "ModelConfigResponse": "ModelConfig config = 1",
    "ModelConfig": """string name = 1; string platform = 2; ModelVersionPolicy version_policy = 3;
        int32 max_batch_size = 4; repeated ModelInput input = 5; repeated ModelOutput output = 6;
        repeated ModelInstanceGroup instance_group = 7; ModelSequenceBatching ?sequence_batching = 13;
        map ModelParameter parameters = 14; string backend = 17""",
    "ModelVersionPolicy": "ModelVersionPolicy.Latest ?latest = 1",
    "ModelVersionPolicy.Latest": "uint32 num_versions = 1",
    "ModelInput": "string name = 1; DataType data_type = 2; repeated int64 dims = 4",
    "ModelOutput": "string name = 1; DataType data_type = 2; repeated int64 dims = 3",
    "ModelInstanceGroup": "string name = 1; int32 count = 2; ModelInstanceGroup.Kind kind = 4",
    "ModelSequenceBatching": """uint64 max_sequence_idle_microseconds = 1;
        ModelSequenceBatching.StrategyOldest ?oldest = 4""",
    "ModelSequenceBatching.StrategyOldest": """int32 max_candidate_sequences = 1;
        uint64 max_queue_delay_microseconds = 3""",
    "ModelParameter": "string string_value = 1",
    "ModelStatisticsRequest": "string name = 1; string version = 2",
    "ModelStatisticsResponse": "repeated ModelStatistics model_stats = 1",
    "ModelStatistics": """string name = 1; string version = 2; uint64 last_inference = 3;
        uint64 inference_count = 4; uint64 execution_count = 5; InferStatistics inference_stats = 6;
        repeated InferBatchStatistics batch_stats = 7""",
    "StatisticDuration": "uint64 count = 1; uint64 ns = 2",
    "InferStatistics": """StatisticDuration success = 1; StatisticDuration fail = 2;
        StatisticDuration queue = 3; StatisticDuration compute_input = 4;
        StatisticDuration compute_infer = 5; StatisticDuration compute_output = 6;
        StatisticDuration cache_hit = 7; StatisticDuration cache_miss = 8""",
    "InferBatchStatistics": """uint64 batch_size = 1; StatisticDuration compute_input = 2;
        StatisticDuration compute_infer = 3; StatisticDuration compute_output = 4""",
    "RepositoryIndexRequest": "string repository_name = 1; bool ready = 2",
    "RepositoryIndexResponse": "repeated RepositoryIndexResponse.ModelIndex models = 1",
    "RepositoryIndexResponse.ModelIndex": """string name = 1; string version = 2; string state = 3;
        string reason = 4""",
    "ModelRepositoryParameter": """bool ?bool_param = 1; int64 ?int64_param = 2; string ?string_param = 3;
        bytes ?bytes_param = 4""",
    "RepositoryModelLoadRequest": """string repository_name = 1; string model_name = 2;
        map ModelRepositoryParameter parameters = 3""",
    "RepositoryModelLoadResponse": "",
    "RepositoryModelUnloadRequest": """string repository_name = 1; string model_name = 2;
        map ModelRepositoryParameter parameters = 3""",
    "RepositoryModelUnloadResponse": "",
}

_FIELD = re.compile(
    r"(?P<label>repeated |map )?(?P<type>[\w.]+) (?P<choice>\??)(?P<name>\w+) = (?P<number>\d+)"
)
_Kind = pb.FieldDescriptorProto
_SCALARS = {
    name: getattr(_Kind, f"TYPE_{name.upper()}")
    for name in ("bool", "int32", "int64", "uint32", "uint64", "float", "double", "string", "bytes")
}


def file() -> pb.FileDescriptorProto:
    """The table as protobuf describes a file."""
    told = pb.FileDescriptorProto(name="carryover/inference.proto", package=PACKAGE, syntax="proto3")
    made: dict[str, pb.DescriptorProto] = {}
    for path in sorted(MESSAGES):  # an outer message comes before those within
        outer, _, name = path.rpartition(".")
        made[path] = message = (made[outer].nested_type if outer else told.message_type).add(name=name)
        for field in _fields(MESSAGES[path]):
            _add(field, message, path)
    for path, values in ENUMS.items():
        outer, _, name = path.rpartition(".")
        enum = (made[outer] if outer else told).enum_type.add(name=name)
        for value, number in values.items():
            enum.value.add(name=value, number=number)
    return told


def _fields(text: str) -> Iterator[re.Match[str]]:
    for part in filter(None, (part.strip() for part in text.split(";"))):
        match = _FIELD.fullmatch(part)
        if match is None:
            raise ValueError(f"not a field: {part}")
        yield match


def _add(field: re.Match[str], message: pb.DescriptorProto, path: str) -> None:
    label, kind, name, number = field["label"], field["type"], field["name"], int(field["number"])
    told = message.field.add(name=name, number=number)
    told.label = _Kind.LABEL_REPEATED if label else _Kind.LABEL_OPTIONAL
    if label == "map ":
        kind = _add_entry(message, name, kind, path)
    if field["choice"]:
        if not message.oneof_decl:
            message.oneof_decl.add(name="choice")
        told.oneof_index = 0
    _set_type(told, kind)


def _add_entry(message: pb.DescriptorProto, name: str, kind: str, path: str) -> str:
    """The message of a map's entries, from text to `kind`; returns its path."""
    entry = message.nested_type.add(name="".join(map(str.capitalize, name.split("_"))) + "Entry")
    entry.options.map_entry = True
    for number, (key, value_kind) in enumerate((("key", "string"), ("value", kind)), 1):
        told = entry.field.add(name=key, number=number, label=_Kind.LABEL_OPTIONAL)
        _set_type(told, value_kind)
    return f"{path}.{entry.name}"


def _set_type(told: pb.FieldDescriptorProto, kind: str) -> None:
    if kind in _SCALARS:
        told.type = _SCALARS[kind]
        return
    told.type = _Kind.TYPE_ENUM if kind in ENUMS else _Kind.TYPE_MESSAGE
    told.type_name = f".{PACKAGE}.{kind}"


_pool = descriptor_pool.DescriptorPool()
_pool.Add(file())
_classes: dict[str, Any] = {}


def message(name: str) -> Any:
    """The class of a message, by its path in the table."""
    if name not in _classes:
        found = _pool.FindMessageTypeByName(f"{PACKAGE}.{name}")
        _classes[name] = message_factory.GetMessageClass(found)
    return _classes[name]
