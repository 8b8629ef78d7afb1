"""A row with checked access to its values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from blockrank_rerank.finetune.data.row import Row
from blockrank_rerank.formats import DataError
from blockrank_rerank.formats.jsonl import identifier_field, json_type
from blockrank_rerank.formats.qrels import LARGEST_JUDGEMENT
from blockrank_rerank.formats.text_names import TEXT_NAMES
from blockrank_rerank.text.document import document_text

LARGEST = float(np.finfo(np.float32).max)


def unfolded(value: Any) -> Any:
    """Return the documents of a mapping of lists, as `datasets` keeps them, one by one; anything else as it is.

    Lists of different lengths stay as they are: nobody knows what belongs together.
    """
    lists = list(value.values()) if isinstance(value, dict) else []
    if not lists or not all(isinstance(item, list | tuple) for item in lists) or len({*map(len, lists)}) > 1:
        return value
    return [dict(zip(value, items, strict=True)) for items in zip(*lists, strict=True)]


class Record:
    """A row whose columns carry this package's names, with checked access to them.

    Every method raises a `DataError` that names the row where a value is not what it must be.

    Parameters
    ----------
    row : Row
        Where the values came from.
    values : mapping
        Column name → value; None is as good as missing, since tables have no other way to say so.
    texts : dict
        Every text seen so far, by itself: documents that many examples share are kept once.
    """

    def __init__(self, row: Row, values: Mapping[str, Any], texts: dict[str, str]) -> None:
        self.row = row
        self._values = {key: value for key, value in values.items() if value is not None}
        self._texts = texts

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def fault(self, message: str) -> DataError:
        """Make an error that names the row."""
        return self.row.fault(message)

    def query(self) -> str:
        """Return the query, which is never blank."""
        query = self._values["query"]
        if not isinstance(query, str):
            raise self.fault(f'expected "query" to be a string, got {json_type(query)}')
        if not query.strip():
            raise self.fault('expected "query" to hold text, got an empty one; remove the line')
        return query

    def identifier(self, key: str) -> str | None:
        """Return the id of a column, if there is one."""
        return identifier_field(self._values, key, self.row.name, self.row.line) if key in self else None

    def items(self, key: str) -> list[Any]:
        """Return the list of a column, which is empty if the column is missing."""
        items = unfolded(self._values.get(key, []))
        if not isinstance(items, list | tuple):
            raise self.fault(f'expected "{key}" to be a list, got {json_type(items)}')
        return list(items)

    def documents(self, key: str) -> list[str]:
        """Return the texts of a column of documents; a lone string, as in tables of triplets, is a list of one."""
        value = self._values.get(key)
        items = [value] if isinstance(value, str) else self.items(key)
        return [self._document(item, key, index) for index, item in enumerate(items)]

    def titled_documents(self, key: str, titles: str) -> list[str]:
        """Return the texts of a column of documents, each behind the title that another column has for it."""
        value, title = self._values.get(key), self._values[titles]
        lone = isinstance(value, str | dict)
        items, headings = ([value], [title]) if lone else (self.items(key), self.items(titles))
        if len(items) != len(headings):
            raise self.fault(
                f'expected "{titles}" to hold one title for each of the {len(items)} documents, got {len(headings)}'
            )
        pairs = zip(items, headings, strict=True)
        titled = [{"title": heading, "text": item} if isinstance(item, str) else item for item, heading in pairs]
        return [self._document(item, key, index) for index, item in enumerate(titled)]

    def value(self, key: str) -> Any:
        """Return the value of a column as it stands, or None if the column is missing."""
        return self._values.get(key)

    def finite(self, number: float, name: str) -> float:
        """Return a number as a float that losses can reckon with; refuse any other, by name."""
        # Losses are reckoned in 32 bits, where larger numbers are infinite.
        if not abs(number) <= LARGEST:
            raise self.fault(f"expected {name} to be finite in 32 bits, got {number}")
        return float(number)

    def grade(self, number: float, name: str) -> float:
        """Return a grade that measures can reckon with; refuse a larger one, by name."""
        if number > LARGEST_JUDGEMENT:
            raise self.fault(f"expected {name} of at most {LARGEST_JUDGEMENT:,}, got {number:g}")
        return number

    def numbers(self, key: str, count: int, beside: str) -> list[float | None] | None:
        """Return a finite number or None for each of `count` documents; None if the column is missing."""
        if key not in self:
            return None
        numbers = self.items(key)
        if len(numbers) != count:
            raise self.fault(
                f'expected "{key}" to hold one number for each of the {count} documents of "{beside}", '
                f"got {len(numbers)}"
            )
        return [self._number(number, key, index) for index, number in enumerate(numbers)]

    def _document(self, item: Any, key: str, index: int) -> str:
        try:
            text = document_text(_with_text(item), index)
        except TypeError as error:
            raise self.fault(str(error).replace("documents[", f"{key}[", 1)) from None
        return self._texts.setdefault(text, text)

    def _number(self, number: Any, key: str, index: int) -> float | None:
        if number is None:
            return None
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise self.fault(f"expected {key}[{index}] to be a number, got {json_type(number)}")
        return self.finite(number, f"{key}[{index}]")


def _with_text(item: Any) -> Any:
    """Return a document that has its text under the name that is read."""
    names = [name for name in TEXT_NAMES if name in item] if isinstance(item, dict) else []
    return {**item, "text": item[names[0]]} if len(names) == 1 else item
