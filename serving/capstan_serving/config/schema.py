"""The messages of `config.pbtxt`: the names, numbers and types of Triton's published `model_config.proto`.

All of them, so that what is not supported is known and refused by name, and only what nobody knows is a
misspelling. A contract test compares them with the descriptor in tritonclient.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# A message's name, then its fields: the number, the type and the name. `*` repeats, `%` maps from strings,
# `^` maps from uint64, `?` (last: protobuf wants it so) tells 0 from nothing; a fourth word is the oneof that
# the field belongs to.
_MESSAGES = """
ModelConfig
  1 string name
  2 string platform
  17 string backend
  25 string runtime
  3 ModelVersionPolicy version_policy
  5 ModelInput* input
  6 ModelOutput* output
  20 BatchInput* batch_input
  21 BatchOutput* batch_output
  12 ModelOptimizationPolicy optimization
  11 ModelDynamicBatching dynamic_batching scheduling_choice
  13 ModelSequenceBatching sequence_batching scheduling_choice
  15 ModelEnsembling ensemble_scheduling scheduling_choice
  7 ModelInstanceGroup* instance_group
  8 string default_model_filename
  9 string% cc_model_filenames
  10 string% metric_tags
  14 ModelParameter% parameters
  16 ModelWarmup* model_warmup
  18 ModelOperations model_operations
  19 ModelTransactionPolicy model_transaction_policy
  23 ModelRepositoryAgents model_repository_agents
  24 ModelResponseCache response_cache
  26 ModelMetrics model_metrics
  4 int32? max_batch_size
ModelVersionPolicy
  1 ModelVersionPolicy.Latest latest policy_choice
  2 ModelVersionPolicy.All all policy_choice
  3 ModelVersionPolicy.Specific specific policy_choice
ModelVersionPolicy.Latest
  1 uint32 num_versions
ModelVersionPolicy.All
ModelVersionPolicy.Specific
  1 int64* versions
ModelTensorReshape
  1 int64* shape
ModelInput
  1 string name
  2 DataType data_type
  3 ModelInput.Format format
  4 int64* dims
  5 ModelTensorReshape reshape
  6 bool is_shape_tensor
  7 bool allow_ragged_batch
  8 bool optional
  9 bool is_non_linear_format_io
ModelOutput
  1 string name
  2 DataType data_type
  3 int64* dims
  5 ModelTensorReshape reshape
  4 string label_filename
  6 bool is_shape_tensor
  7 bool is_non_linear_format_io
ModelInstanceGroup
  1 string name
  4 ModelInstanceGroup.Kind kind
  2 int32 count
  6 ModelRateLimiter rate_limiter
  3 int32* gpus
  8 ModelInstanceGroup.SecondaryDevice* secondary_devices
  5 string* profile
  7 bool passive
  9 string host_policy
ModelOptimizationPolicy
  1 ModelOptimizationPolicy.Graph graph
  2 ModelOptimizationPolicy.ModelPriority priority
  3 ModelOptimizationPolicy.Cuda cuda
  4 ModelOptimizationPolicy.ExecutionAccelerators execution_accelerators
  5 ModelOptimizationPolicy.PinnedMemoryBuffer input_pinned_memory
  6 ModelOptimizationPolicy.PinnedMemoryBuffer output_pinned_memory
  7 uint32 gather_kernel_buffer_threshold
  8 bool eager_batching
ModelOptimizationPolicy.Graph
  1 int32 level
ModelOptimizationPolicy.Cuda
  1 bool graphs
  2 bool busy_wait_events
  3 ModelOptimizationPolicy.Cuda.GraphSpec* graph_spec
  4 bool output_copy_stream
ModelOptimizationPolicy.ExecutionAccelerators
  1 ModelOptimizationPolicy.ExecutionAccelerators.Accelerator* gpu_execution_accelerator
  2 ModelOptimizationPolicy.ExecutionAccelerators.Accelerator* cpu_execution_accelerator
ModelOptimizationPolicy.ExecutionAccelerators.Accelerator
  1 string name
  2 string% parameters
ModelOptimizationPolicy.PinnedMemoryBuffer
  1 bool enable
ModelQueuePolicy
  1 ModelQueuePolicy.TimeoutAction timeout_action
  2 uint64 default_timeout_microseconds
  3 bool allow_timeout_override
  4 uint32 max_queue_size
ModelDynamicBatching
  1 int32* preferred_batch_size
  2 uint64 max_queue_delay_microseconds
  3 bool preserve_ordering
  4 uint64 priority_levels
  5 uint64 default_priority_level
  6 ModelQueuePolicy default_queue_policy
  7 ModelQueuePolicy^ priority_queue_policy
ModelParameter
  1 string string_value
ModelWarmup
  1 string name
  2 uint32 batch_size
  3 ModelWarmup.Input% inputs
  4 uint32 count
ModelWarmup.Input
  1 DataType data_type
  2 int64* dims
  3 bool zero_data input_data_type
  4 bool random_data input_data_type
  5 string input_data_file input_data_type
ModelOperations
  1 string* op_library_filename
ModelTransactionPolicy
  1 bool decoupled
ModelResponseCache
  1 bool enable
BatchInput
  1 BatchInput.Kind kind
  2 string* target_name
  3 DataType data_type
  4 string* source_input
BatchOutput
  1 string* target_name
  2 BatchOutput.Kind kind
  3 string* source_input
ModelRateLimiter
  1 ModelRateLimiter.Resource* resources
  2 uint32 priority
ModelRateLimiter.Resource
  1 string name
  2 bool global
  3 uint32 count
ModelInstanceGroup.SecondaryDevice
  1 ModelInstanceGroup.SecondaryDevice.SecondaryDeviceKind kind
  2 int64 device_id
ModelOptimizationPolicy.Cuda.GraphSpec
  1 int32 batch_size
  2 ModelOptimizationPolicy.Cuda.GraphSpec.Shape% input
  3 ModelOptimizationPolicy.Cuda.GraphSpec.LowerBound graph_lower_bound
ModelOptimizationPolicy.Cuda.GraphSpec.Shape
  1 int64* dim
ModelOptimizationPolicy.Cuda.GraphSpec.LowerBound
  1 int32 batch_size
  2 ModelOptimizationPolicy.Cuda.GraphSpec.Shape% input
ModelSequenceBatching
  3 ModelSequenceBatching.StrategyDirect direct strategy_choice
  4 ModelSequenceBatching.StrategyOldest oldest strategy_choice
  1 uint64 max_sequence_idle_microseconds
  2 ModelSequenceBatching.ControlInput* control_input
  5 ModelSequenceBatching.State* state
  6 bool iterative_sequence
ModelSequenceBatching.Control
  1 ModelSequenceBatching.Control.Kind kind
  2 int32* int32_false_true
  3 float* fp32_false_true
  5 bool* bool_false_true
  4 DataType data_type
ModelSequenceBatching.ControlInput
  1 string name
  2 ModelSequenceBatching.Control* control
ModelSequenceBatching.InitialState
  1 DataType data_type
  2 int64* dims
  3 bool zero_data state_data
  4 string data_file state_data
  5 string name
ModelSequenceBatching.State
  1 string input_name
  2 string output_name
  3 DataType data_type
  4 int64* dims
  5 ModelSequenceBatching.InitialState* initial_state
  6 bool use_same_buffer_for_input_output
  7 bool use_growable_memory
ModelSequenceBatching.StrategyDirect
  1 uint64 max_queue_delay_microseconds
  2 float minimum_slot_utilization
ModelSequenceBatching.StrategyOldest
  1 int32 max_candidate_sequences
  2 int32* preferred_batch_size
  3 uint64 max_queue_delay_microseconds
  4 bool preserve_ordering
ModelEnsembling
  1 ModelEnsembling.Step* step
  2 uint32 max_inflight_requests
ModelEnsembling.Step
  1 string model_name
  2 int64 model_version
  3 string% input_map
  4 string% output_map
  5 string model_namespace
ModelRepositoryAgents
  1 ModelRepositoryAgents.Agent* agents
ModelRepositoryAgents.Agent
  1 string name
  2 string% parameters
ModelMetrics
  1 ModelMetrics.MetricControl* metric_control
ModelMetrics.MetricControl
  1 ModelMetrics.MetricControl.MetricIdentifier metric_identifier
  2 ModelMetrics.MetricControl.HistogramOptions histogram_options metric_options
ModelMetrics.MetricControl.MetricIdentifier
  1 string family
ModelMetrics.MetricControl.HistogramOptions
  1 double* buckets
"""

# Their values are numbered from 0.
_ENUMS = {
    "DataType": "TYPE_INVALID TYPE_BOOL TYPE_UINT8 TYPE_UINT16 TYPE_UINT32 TYPE_UINT64 TYPE_INT8 TYPE_INT16 "
    "TYPE_INT32 TYPE_INT64 TYPE_FP16 TYPE_FP32 TYPE_FP64 TYPE_STRING TYPE_BF16",
    "BatchInput.Kind": "BATCH_ELEMENT_COUNT BATCH_ACCUMULATED_ELEMENT_COUNT "
    "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO BATCH_MAX_ELEMENT_COUNT_AS_SHAPE BATCH_ITEM_SHAPE "
    "BATCH_ITEM_SHAPE_FLATTEN",
    "BatchOutput.Kind": "BATCH_SCATTER_WITH_INPUT_SHAPE",
    "ModelInput.Format": "FORMAT_NONE FORMAT_NHWC FORMAT_NCHW",
    "ModelInstanceGroup.Kind": "KIND_AUTO KIND_GPU KIND_CPU KIND_MODEL",
    "ModelInstanceGroup.SecondaryDevice.SecondaryDeviceKind": "KIND_NVDLA",
    "ModelOptimizationPolicy.ModelPriority": "PRIORITY_DEFAULT PRIORITY_MAX PRIORITY_MIN",
    "ModelQueuePolicy.TimeoutAction": "REJECT DELAY",
    "ModelSequenceBatching.Control.Kind": "CONTROL_SEQUENCE_START CONTROL_SEQUENCE_READY "
    "CONTROL_SEQUENCE_END CONTROL_SEQUENCE_CORRID",
}

PACKAGE = "inference"
_Field = descriptor_pb2.FieldDescriptorProto


def _build() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="config.proto", package=PACKAGE, syntax="proto3")
    messages: dict[str, descriptor_pb2.DescriptorProto] = {}
    for line in _MESSAGES.strip().splitlines():
        if not line.startswith(" "):
            outer, _, name = line.rpartition(".")
            message = messages[outer].nested_type.add() if outer else file.message_type.add()
            message.name = name
            messages[full := line] = message
        else:
            _add_field(messages[full], full, *line.split())
    for path, values in _ENUMS.items():
        outer, _, name = path.rpartition(".")
        enum = messages[outer].enum_type.add() if outer else file.enum_type.add()
        enum.name = name
        for number, value in enumerate(values.split()):
            enum.value.add(name=value, number=number)
    return file


def _add_field(
    message: descriptor_pb2.DescriptorProto, path: str, number: str, kind: str, name: str, oneof: str = ""
) -> None:
    field = message.field.add(name=name, number=int(number), label=_Field.LABEL_OPTIONAL)
    mark = kind[-1]
    if mark in "*%^":
        field.label = _Field.LABEL_REPEATED
    if mark in "%^":
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        for place, part in enumerate(("uint64" if mark == "^" else "string", kind[:-1]), 1):
            _set_type(entry.field.add(name=("", "key", "value")[place], number=place, label=1), part)
        _set_type(field, f"{path}.{entry.name}")
    else:
        _set_type(field, kind.rstrip("*?"))
    if mark == "?":
        field.proto3_optional = True
        oneof = f"_{name}"
    if oneof:
        names = [declared.name for declared in message.oneof_decl]
        if oneof not in names:
            message.oneof_decl.add(name=oneof)
            names.append(oneof)
        field.oneof_index = names.index(oneof)


def _set_type(field: _Field, kind: str) -> None:
    if kind in ("string", "bool", "int32", "int64", "uint32", "uint64", "float", "double"):
        field.type = _Field.Type.Value(f"TYPE_{kind.upper()}")
    else:
        field.type = _Field.TYPE_ENUM if kind in _ENUMS else _Field.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{kind}"


_pool = descriptor_pool.DescriptorPool()
_pool.Add(_build())  # type: ignore[no-untyped-call]

_descriptor = _pool.FindMessageTypeByName(f"{PACKAGE}.ModelConfig")  # type: ignore[no-untyped-call]
ModelConfig: Any = message_factory.GetMessageClass(_descriptor)
"""The class of a configuration."""

DATA_TYPES: tuple[str, ...] = tuple(_ENUMS["DataType"].split())
"""By number."""


def data_type(number: int) -> str:
    """The name of a type; a configuration may have numbers that are none."""
    return DATA_TYPES[number] if 0 <= number < len(DATA_TYPES) else str(number)
