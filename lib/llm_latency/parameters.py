"""What users write, understood or refused: parameters of notebooks become spec objects.

papermill hands lists, booleans and nulls over as text; what is plainly JSON is taken for what
it is. Whatever cannot be right is refused in one sentence that names the parameter, its value,
what is allowed and what to do.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from llm_latency.errors import ParameterError, did_you_mean
from llm_latency.spec import Frozen


def as_list(name: str, value: Any) -> list[Any]:
    """Return a grid parameter, one value or a list of them, as a list without repetitions.

    papermill hands ``-p n_batch "[256, 512]"``, ``true`` and ``null`` over as text; text that
    reads as a JSON list, number, boolean or null is taken for what it plainly is.

    Raises
    ------
    ParameterError
        If the list is empty.
    """
    value = plain(value)
    values = [plain(v) for v in value] if isinstance(value, list | tuple | range) else [value]
    if not values:
        raise ParameterError(
            f"{name}=[] has no value to measure; give one value or a list, such as {name}=[512]"
        )
    return list({json.dumps(v, sort_keys=True, default=str): v for v in values}.values())


def plain(value: Any) -> Any:
    """Undo what the command line does to a value: text that is plainly JSON becomes its value."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text in {"true", "True", "false", "False", "null", "None"}:
        return {"t": True, "f": False}.get(text[0].lower())
    if text[:1] in "[-0123456789":
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return value
    return value


SpecT = TypeVar("SpecT", bound=Frozen)


def build(kind: type[SpecT], values: Mapping[str, Any]) -> SpecT:
    """Make one spec object out of named values.

    Raises
    ------
    ParameterError
        One sentence that names the first wrong parameter, its value, what is allowed and what
        to do.
    """
    for name in values:
        if name not in kind.model_fields:
            allowed = ", ".join(kind.model_fields)
            raise ParameterError(
                f"{name} is not a parameter of {kind.__name__.lower()}"
                f"{did_you_mean(name, kind.model_fields)} Allowed are: {allowed}."
            )
    try:
        return kind(**values)
    except ValidationError as error:
        raise ParameterError(explain(error, kind)) from None


def explain(error: ValidationError, kind: type[Frozen]) -> str:
    """Put the first finding of a validation error as one sentence with a remedy."""
    finding = error.errors()[0]
    if not finding["loc"]:
        return f"{kind.__name__.lower()}: {finding['msg'].removeprefix('Value error, ')}."
    name = str(finding["loc"][0])
    purpose = kind.model_fields[name].description or name
    rule = finding["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{name}={finding['input']!r} is refused: give {rule} ({purpose})."


def grid(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return every combination of the axes' values, the last axis turning fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
