"""From a resource as it is stored to its model; what does not fit is a sentence, never an exception.

Admission refuses bad specs. Those that are here all the same were stored before a rule existed, or by a
cluster whose CRD is older.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from capstan_operator.api.base import Model
from capstan_operator.core.model import Manifest
from capstan_operator.core.policies.finding import Finding

INVALID_SPEC = "InvalidSpec"

_Spec = TypeVar("_Spec", bound=Model)


def parsed(model: type[_Spec], resource: Manifest) -> _Spec | Finding:
    """The resource's spec, or what is wrong with it."""
    try:
        return model.model_validate(resource.get("spec"))
    except ValidationError as error:
        return Finding(INVALID_SPEC, f"The spec is not valid: {_sentence(error)}. Correct it.")
    except (RecursionError, ValueError) as error:
        return Finding(INVALID_SPEC, f"The spec cannot be read: {type(error).__name__}. Correct it.")


def _sentence(error: ValidationError) -> str:
    problems = [
        f"{'.'.join(('spec', *map(str, problem['loc'])))[:200]}:"
        f" {problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more
