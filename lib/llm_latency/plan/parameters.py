"""What users write, understood or refused: parameters of notebooks become spec objects.

papermill hands lists, booleans and nulls over as text, other libraries numbers and arrays of
their own; what is plainly a value is taken for what it is. Whatever cannot be right is refused
in one sentence that names the parameter, its value, what is allowed and what to do.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from pydantic import ValidationError

from llm_latency.base import Frozen
from llm_latency.errors import ParameterError, did_you_mean
from llm_latency.plan.settings import MAX_INT32, Conflict, Settings, padded
from llm_latency.plan.spec import Trial

MOST = 10_000
"""Values of one parameter, and cells of one grid, above which a request is taken for a slip."""
LONGEST = 1_000
"""Letters of a text, and binary digits of a number, that no parameter needs."""
WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
"""How YAML, JSON and Python write what is no number."""


def as_list(name: str, value: Any) -> list[Any]:
    """Return a grid parameter, one value or a list of them, as a list without repetitions.

    papermill hands ``-p n_batch "[256, 512]"``, ``true`` and ``null`` over as text; text that
    reads as a JSON list, number, boolean or null is taken for what it plainly is.

    Raises
    ------
    ParameterError
        If the list is empty, or longer than anybody would measure.
    """
    value = plain(value)
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ParameterError(
            f"{name}=[] has no value to measure; give one value or a list, such as {name}=[512]"
        )
    if len(values) > MOST:
        raise ParameterError(
            f"{name} has {len(values):,} values, and {MOST:,} are the most; give fewer."
        )
    # 1, 1.0 and True are equal in Python, and not the same value.
    return list({f"{type(v).__name__} {shown(v)}": v for v in values}.values())


def plain(value: Any) -> Any:
    """Undo what the command line and other libraries do to a value, or to a list of values.

    Text that is plainly JSON becomes its value, numpy's numbers and arrays become Python's, a
    path becomes text. Whatever is none of these stays as it is.
    """
    value = _plain_one(value)
    if isinstance(value, list | tuple | range) and not value[MOST:]:
        return [_plain_one(one) for one in value]
    return value


def _plain_one(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if callable(as_python := getattr(value, "tolist", None)):
        value = as_python()
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text in WORDS:
        return WORDS[text]
    if re.fullmatch(r"-?\d{1,30}(_\d{1,30})+", text, re.ASCII):
        return int(text)  # as Python, YAML and papermill write 1_000
    if text[:1] in "[-0123456789":
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return value
    return value


def shown(value: Any) -> str:
    """Return a value as an error shows it: as Python writes it, and no longer than a line."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 100 else f"{text[:60]}…{text[-30:]}"


def check_sizes(given: Mapping[str, Any]) -> None:
    """Refuse values that are longer than any that means something, before they are quoted.

    Raises
    ------
    ParameterError
        One sentence that names the first of them.
    """
    for name, value in given.items():
        value = plain(value)
        for one in value[: MOST + 1] if isinstance(value, list) else [value]:
            long = isinstance(one, str) and len(one) > LONGEST
            if long or (isinstance(one, int) and one.bit_length() > LONGEST):
                raise ParameterError(
                    f"{name}={shown(one)} is refused: nothing so long means anything here; give "
                    "a value that does."
                )


def whole(name: str, value: Any, least: int = 1, most: int = MAX_INT32) -> int:
    """Return a parameter that counts something.

    Raises
    ------
    ParameterError
        If it is no whole number, or outside of what makes sense.
    """
    value = plain(value)
    if type(value) is not int or not least <= value <= most:
        raise ParameterError(
            f"{name}={shown(value)} is refused: give whole numbers from {least:,} to {most:,}."
        )
    return value


def run_name(value: Any) -> str | None:
    """Return the name that a run is to have; ``None`` where it is left to the lab.

    Raises
    ------
    ParameterError
        If it is neither text nor the whole number that papermill makes of digits.
    """
    if isinstance(value, str):
        return value.strip() or None
    value = plain(value)
    if value is not None and type(value) is not int:
        raise ParameterError(
            f"run_id={shown(value)} is refused: give a name with a letter in it, such as "
            "run_id='first-try', or '' to have one made."
        )
    return None if value is None else str(value)


def unknown(name: str, of: str, allowed: Iterable[str]) -> ParameterError:
    """Return the error of a name that nothing is called by."""
    names = list(allowed)
    return ParameterError(
        f"{name} is not a parameter of {of}{did_you_mean(name, names)} "
        f"Allowed are: {', '.join(names)}."
    )


P = ParamSpec("P")
R = TypeVar("R")


def closed(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Refuse every keyword that a function does not take, as notebooks refuse it.

    Parameters
    ----------
    name
        What the function is called in the error.
    """

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        allowed = list(inspect.signature(function).parameters)

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for keyword in kwargs:
                if keyword not in allowed:
                    raise unknown(keyword, name, allowed)
            return function(*args, **kwargs)

        return checked

    return wrap


SpecT = TypeVar("SpecT", bound=Frozen)


def build(kind: type[SpecT], values: Mapping[str, Any]) -> SpecT:
    """Make one spec object out of named values, which must go together.

    Raises
    ------
    ParameterError
        One sentence, see :func:`shape` and :func:`refusal`.
    """
    made = shape(kind, values)
    if isinstance(made, Settings) and (conflict := made.conflict):
        raise refusal(conflict)
    return made


def refusal(conflict: Conflict) -> ParameterError:
    """Return the error of settings that do not go together."""
    return ParameterError(f"{conflict.what} is refused: {conflict.why}.")


def shape(kind: type[SpecT], values: Mapping[str, Any]) -> SpecT:
    """Make one spec object out of named values, each of which is right by itself.

    Raises
    ------
    ParameterError
        One sentence that names the first wrong parameter, its value, what is allowed and what
        to do.
    """
    for name in values:
        if name not in kind.model_fields:
            raise unknown(name, kind.__name__.lower(), kind.model_fields)
    try:
        return kind(**values)
    except ValidationError as error:
        raise ParameterError(explain(error, kind)) from None


def explain(error: ValidationError, kind: type[Frozen]) -> str:
    """Put the first finding of a validation error as one sentence with a remedy."""
    finding = error.errors()[0]
    if not finding["loc"]:
        return f"{kind.__name__.lower()}: {finding['msg'].removeprefix('Value error, ')}."
    name, value = str(finding["loc"][0]), finding["input"]
    purpose = kind.model_fields[name].description or name
    rule = finding["msg"]
    for head in ("Input should be ", "Value error, ", "String should have "):
        rule = rule.removeprefix(head)
    if rule.startswith(("greater", "less")):
        rule = f"a number {rule}"
    if finding["type"] == "int_type" and isinstance(value, float) and value.is_integer():
        rule = f"{rule} such as {shown(int(value))}"
    return f"{name}={shown(value)} is refused: give {rule} ({purpose})."


def check_room(cell: Trial) -> None:
    """Refuse a prompt and an answer that the context cannot hold together.

    Raises
    ------
    ParameterError
        One sentence that names all three.
    """
    work = cell.workload
    deepest = max(work.depths or (0,))
    n_ctx, prompt, answer = (
        cell.settings.n_ctx,
        deepest + (work.prompt_tokens or 0),
        work.max_tokens,
    )
    if (need := prompt + answer) > n_ctx:
        raise ParameterError(
            f"n_ctx={n_ctx} is refused: prompt_tokens={prompt} and max_tokens={answer} need "
            f"{need} tokens of context; give n_ctx={padded(need)} or more, or "
            "fewer tokens."
        )


def grid(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return every combination of the axes' values, the last axis turning fastest.

    Raises
    ------
    ParameterError
        If these are more than anybody would measure.
    """
    count = math.prod(len(values) for values in axes.values())
    if count > MOST:
        several = " × ".join(name for name, values in axes.items() if len(values) > 1)
        raise ParameterError(
            f"{several} are {count:,} combinations, and {MOST:,} are the most; give fewer values."
        )
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
