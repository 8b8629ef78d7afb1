from __future__ import annotations


class DataError(ValueError):
    """Data that cannot be used, with the place where it was found.

    Parameters
    ----------
    message : str
        What was expected and what was found.
    path : str, optional
        The file as the user named it.
    line : int, optional
        1-based line number in that file.
    """

    def __init__(self, message: str, path: str | None = None, line: int | None = None) -> None:
        place = ":".join(str(part) for part in (path, line) if part is not None)
        super().__init__(f"{place}: {message}" if place else message)
        self.path = path
        self.line = line
