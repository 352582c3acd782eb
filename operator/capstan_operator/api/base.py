"""What every model has in common: strict, frozen, camelCase, and rules that hold in two languages.

A `Rule` or a `Text` carries a CEL expression, for the API server to refuse a resource by, and the same in
Python, for resources that were stored before the rule existed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

VALIDATIONS = "x-kubernetes-validations"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule across the fields of one object. `message` says what to do, not only what is wrong."""

    cel: str
    message: str
    holds: Callable[[Any], bool]

    def validation(self) -> dict[str, str]:
        """The entry of x-kubernetes-validations."""
        return {"rule": self.cel, "message": self.message}


class Model(BaseModel):
    """The base of all models."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )

    #: What must hold across fields.
    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        for rule in type(self).rules:
            if not rule.holds(self):
                raise ValueError(rule.message)
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The schema, with the rules."""
        result = handler.resolve_ref_schema(handler(schema))
        if cls.rules:
            result[VALIDATIONS] = [rule.validation() for rule in cls.rules]
        return result


@dataclass(frozen=True, slots=True)
class Text:
    """Annotates a string that must match a pattern wholly, with a sentence for those that do not.

    A schema's own `pattern` is answered with the bare expression, so this becomes a CEL rule instead. The
    pattern must mean the same in Python's `re` and in RE2.
    """

    pattern: str
    message: str
    max_length: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check in Python what the rule says."""
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The rule in CEL, where backslashes are escaped once more."""
        result = handler(schema)
        pattern = self.pattern.replace("\\", "\\\\")
        result["maxLength"] = self.max_length
        result[VALIDATIONS] = [{"rule": f"self.matches('^{pattern}$')", "message": self.message}]
        return result

    def _checked(self, value: str) -> str:
        if len(value) > self.max_length or re.fullmatch(self.pattern, value) is None:
            raise ValueError(self.message)
        return value
