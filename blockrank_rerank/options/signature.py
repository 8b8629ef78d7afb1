"""Signatures and docstrings of functions that take the options."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import wraps
from textwrap import indent, wrap
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from blockrank_rerank.options.declaration import Option
from blockrank_rerank.options.options import OPTIONS

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")
F = TypeVar("F", bound=Callable[..., Any])

OPTIONS_ENTRY = re.compile(r"^\*\*options\n(?:    .*\n?)+", re.MULTILINE)
"""What a docstring says about ``**options``."""


def typed_as(
    options: Callable[P, Any],
) -> Callable[[Callable[Concatenate[C, ...], R]], Callable[Concatenate[C, P], R]]:
    """Tell type checkers that a method takes what another callable does; changes nothing at run time."""
    return cast("Callable[[Callable[Concatenate[C, ...], R]], Callable[Concatenate[C, P], R]]", lambda method: method)


def with_options(without: Sequence[str] = ()) -> Callable[[F], F]:
    """Write every option, but for some, where a function has ``**options``: into its signature and its docstring.

    A keyword that is none of them is refused with a TypeError that names the one which was probably meant.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        named = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        names = {parameter.name for parameter in named} | set(without)
        parameters = [*named, *(_parameter(option) for option in OPTIONS.values() if option.name not in names)]

        known = [parameter.name for parameter in parameters]

        @wraps(function)
        def run(*arguments: Any, **keywords: Any) -> Any:
            _refuse_unknown(function.__qualname__, keywords, known)
            return function(*arguments, **keywords)

        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        entries = "".join(_entry(option) for option in OPTIONS.values() if option.name not in without)
        if function.__doc__:
            run.__doc__ = OPTIONS_ENTRY.sub(lambda _: entries, inspect.cleandoc(function.__doc__))
        return cast("F", run)

    return decorate


def _parameter(option: Option) -> inspect.Parameter:
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=option.annotation
    )


def _entry(option: Option) -> str:
    """The option as a NumPy docstring has it."""
    text = "\n".join(wrap(re.sub(r"\s+", " ", option.help), 100))
    return f"{option.name} : {option.annotation}, default {option.default!r}\n{indent(text, '    ')}\n"


def _refuse_unknown(function: str, keywords: dict[str, Any], known: list[str]) -> None:
    for name in keywords:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{meant}")
