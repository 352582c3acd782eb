"""Configurations as text and as JSON. What is not supported is refused by name, never ignored."""

import json
from pathlib import Path
from typing import Any

from google.protobuf import json_format, text_format
from google.protobuf.json_format import ParseError as JsonError
from google.protobuf.text_format import ParseError as TextError

from capstan_serving.config import schema
from capstan_serving.config.refusals import refused
from capstan_serving.errors import ModelLoadError

FILE = "config.pbtxt"


def from_text(text: bytes, file: Path) -> Any:
    """A configuration from the text of a file."""
    try:
        config = text_format.Parse(text.decode(), schema.ModelConfig())
    except UnicodeDecodeError as error:
        raise ModelLoadError(f"{file} is not UTF-8 ({error}); save it as plain text") from error
    except TextError as error:
        said = str(error).partition(" : ")[2] or str(error)
        place = f"line {error.GetLine()}, column {error.GetColumn()}"
        raise ModelLoadError(f"{file}, {place}: {said} Correct it there") from error
    _refuse(config, str(file))
    return config


def from_json(text: str, name: str) -> Any:
    """A configuration from the JSON of a load request."""
    where = f"the configuration in the request for model {name!r}"
    try:
        read = json.loads(text)
        if not isinstance(read, dict):
            raise ModelLoadError(f"{where} is no JSON object; send one")
        config = json_format.ParseDict(read, schema.ModelConfig())
    except (JsonError, ValueError, RecursionError) as error:
        raise ModelLoadError(f"{where} cannot be read: {error}; correct it") from error
    _refuse(config, where)
    return config


def _refuse(config: Any, where: str) -> None:
    found = [f"{field} is not supported: {reason}" for field, reason in refused(config)]
    if found:
        raise ModelLoadError(f"{where}: {'; '.join(found)}. Remove what is not supported")


def to_dict(config: Any) -> dict[str, Any]:
    """The protocol's JSON form, in which numbers of 64 bits are numbers."""
    shown: dict[str, Any] = _plain(
        json_format.MessageToDict(
            config, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        ),
        config,
    )
    return shown


def _plain(shown: Any, message: Any) -> Any:
    """The same with numbers where protobuf's JSON has strings."""
    for field in message.DESCRIPTOR.fields:
        value = shown.get(field.name)
        if value is None:
            continue
        if field.message_type is None:
            if field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64):
                shown[field.name] = list(map(int, value)) if field.is_repeated else int(value)
        elif field.message_type.GetOptions().map_entry:
            for key, entry in value.items():
                if isinstance(entry, dict):
                    number = field.message_type.fields_by_name["key"].type != field.TYPE_STRING
                    _plain(entry, getattr(message, field.name)[int(key) if number else key])
        elif field.is_repeated:
            for entry, inner in zip(value, getattr(message, field.name), strict=True):
                _plain(entry, inner)
        else:
            _plain(value, getattr(message, field.name))
    return shown
