"""How an option is declared, for Python, the command line and adapters alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Owner = Literal["checkpoint", "engine", "ranker"]
"""Who works with an option's value: what reads the model, what computes, or what ranks."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """The declaration of one option.

    Parameters
    ----------
    name : str
        In Python and in saved settings; the command line has dashes for its underscores.
    annotation : str
        What Python takes.
    default : object
        What counts if nothing is given.
    help : str
        The first paragraph is for everybody, what follows for Python. Two backticks stand around what is typed.
    plain_type : type
        What JSON and YAML hold, where something is given.
    owner : str
        Who works with the value: the ``checkpoint``, the ``engine`` or the ``ranker``.
    plain : callable
        Turns any accepted value into what JSON and YAML hold, and leaves what is not accepted as it is.
    check : callable
        Turns a value into what its owner works with, or refuses it with a ValueError.
    word_type : type, optional
        What the command line takes, where that is neither the plain type nor a text.
    metavar : str, optional
        What the command line's help calls the value.
    parse : callable
        Turns what the command line took into a value.
    secret : bool
        Whether the value is never shown, saved or pickled.
    """

    name: str
    annotation: str
    default: Any
    help: str
    plain_type: Any
    owner: Owner
    plain: Callable[[Any], Any]
    check: Callable[[Any], Any]
    word_type: Any
    metavar: str | None
    parse: Callable[[Any], Any]
    secret: bool

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def summary(self) -> str:
        """The first paragraph of its help, in one line."""
        return " ".join(self.help.partition("\n\n")[0].split())


def option(
    default: Any,
    plain_type: Any,
    help: str,
    *,
    owner: Owner = "engine",
    plain: Callable[[Any], Any] = lambda value: value,
    check: Callable[[Any], Any] = lambda value: value,
    word_type: Any = None,
    metavar: str | None = None,
    parse: Callable[[Any], Any] = lambda value: value,
    secret: bool = False,
) -> Any:
    """Declare an option as a dataclass field; see :class:`Option`."""
    declared = {name: value for name, value in locals().items() if name != "default"}
    return field(default=default, repr=not secret, metadata=declared)
