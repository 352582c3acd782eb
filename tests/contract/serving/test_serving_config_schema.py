"""The messages of `config.pbtxt` are those that Triton publishes: see tritonclient's."""

from capstan_serving.config.refusals import REFUSED
from capstan_serving.config.schema import ModelConfig
from tritonclient.grpc import model_config_pb2


def messages(message, found):
    if message.full_name not in found:
        found[message.full_name] = message
        for field in message.fields:
            if field.message_type:
                messages(field.message_type, found)
    return found


def described(field):
    enum = field.enum_type
    oneof = field.containing_oneof and field.containing_oneof.name
    return (
        field.number,
        field.type,
        field.is_repeated,
        field.message_type and field.message_type.full_name,
        enum and (enum.full_name, {value.name: value.number for value in enum.values}),
        bool(field.message_type and field.message_type.GetOptions().map_entry),
        # Ours tells a max_batch_size of 0 from none, which needs a oneof of its own.
        oneof and not oneof.startswith("_") and oneof,
    )


def test_every_field_has_the_published_name_number_and_type():
    ours = messages(ModelConfig.DESCRIPTOR, {})
    published = messages(model_config_pb2.ModelConfig.DESCRIPTOR, {})
    assert ours.keys() == published.keys()
    for name, message in published.items():
        fields = {field.name: [bool(part) and part for part in described(field)] for field in message.fields}
        assert {
            field.name: [bool(part) and part for part in described(field)] for field in ours[name].fields
        } == fields, name


def test_what_is_refused_is_there():
    known = messages(ModelConfig.DESCRIPTOR, {})
    for path in REFUSED:
        message, *fields = path.rsplit(".", 2 if path.endswith(".enable") else 1)
        here = known[f"inference.{message}"]
        for field in fields:
            here = here.fields_by_name[field].message_type or here


def test_what_we_write_the_client_reads():
    message = ModelConfig(name="m", max_batch_size=8)
    message.input.add(name="x", data_type="TYPE_BF16", dims=[3, -1])
    message.instance_group.add(kind="KIND_CPU", count=2)
    read = model_config_pb2.ModelConfig.FromString(message.SerializeToString())
    assert read.max_batch_size == 8
    assert list(read.input[0].dims) == [3, -1]
    assert read.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
