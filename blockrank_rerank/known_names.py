from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def refuse_unknown_names(names: Iterable[object], known: Iterable[str], where: str) -> None:
    """Refuse settings that do not exist, and name those that were probably meant.

    Raises
    ------
    ValueError
        If a name is none of the known ones.
    """
    known = list(known)
    unknown = sorted(str(name) for name in set(names) - set(known))
    if unknown:
        meant = [close for name in unknown for close in get_close_matches(name, known, n=1)]
        advice = f"did you mean {', '.join(meant)}? " if meant else ""
        raise ValueError(f"{where}: unknown settings {', '.join(unknown)}; {advice}known are {', '.join(known)}")
