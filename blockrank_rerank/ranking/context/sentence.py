"""The sentences of a ranked list, each with the score that it has by itself."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from blockrank_rerank.engine.batch import Batch
from blockrank_rerank.model.scores import raw_score
from blockrank_rerank.states.document_states import HEAD_KEY, key_name
from blockrank_rerank.text.document import given_text
from blockrank_rerank.text.sentences import sentence_spans

if TYPE_CHECKING:
    from blockrank_rerank.ranking.attended import AttendedList
    from blockrank_rerank.states.pack import StatePack

DOCUMENT_WEIGHT = 0.5
"""Of the document's raw score in a sentence's score; 0 was worse on a training collection, 1 and 2 alike."""

Span = tuple[int, int]
"""Start and end, exclusive."""

Place = tuple[int, int, int]
"""Document, start and end of a sentence, in code points of the text as given."""


@dataclass(frozen=True, eq=False)
class Sentence:
    """A sentence with its score.

    Attributes
    ----------
    index, start, end : int
        Its document, and code points of the text as given.
    text : str
        The sentence.
    score : float or None
        Raw score of the sentence, read in its document and scored as a document of its own, plus so much of the raw
        score of the document (`DOCUMENT_WEIGHT`). None of a sentence that the model has not read.
    key : Tensor or None
        ``[Hk * D]`` fp32, length 1: mean of the keys that the scoring layer reads of its tokens.
    """

    index: int
    start: int
    end: int
    text: str
    score: float | None
    key: Tensor | None


def read_sentences(attended: AttendedList, documents: Sequence[int], within: Mapping[int, Span]) -> list[Sentence]:
    """Score the sentences of some documents of a ranked list, in the order of the documents and of their texts.

    Parameters
    ----------
    attended : AttendedList
        The list.
    documents : sequence of int
        Whose sentences are wanted, by index.
    within : mapping of int to (int, int)
        Code points to which a document's text is narrowed, where it has other text around it.
    """
    texts = {index: given_text(attended.request.plain[index]) for index in documents}
    spans = {index: _narrowed(sentence_spans(text), within.get(index)) for index, text in texts.items()}
    scored = _scored(attended, *_cut(attended, spans))
    of_document = {ranked.index: ranked.raw_score for ranked in attended.ranking}
    found = []
    for index, text in texts.items():
        for start, end in spans[index]:
            raw, key = scored.get((index, start, end), (None, None))
            score = None if raw is None else raw + DOCUMENT_WEIGHT * of_document[index]
            found.append(Sentence(index, start, end, text[start:end], score, key))
    return found


def _scored(
    attended: AttendedList, ends: Sequence[Sequence[int]], places: Sequence[Place | None]
) -> dict[Place, tuple[float, Tensor]]:
    """Raw score and mean key of each sentence that was read."""
    if not any(places):
        return {}
    parts = attended.states.parts(ends)
    (lse,) = attended.engine.score(Batch([attended.encoded], [parts]))
    raw, keys = raw_score(lse.documents).tolist(), _mean_keys(attended, parts)
    best: dict[Place, tuple[float, Tensor]] = {}
    for place, score, key in zip(places, raw, keys, strict=True):
        # Passages overlap: of a sentence that is in two, the higher score counts.
        if place is not None and (place not in best or score > best[place][0]):
            best[place] = score, key
    return best


def _narrowed(spans: Sequence[Span], within: Span | None) -> list[Span]:
    first, last = within or (0, sys.maxsize)
    clipped = [(max(start, first), min(end, last)) for start, end in spans]
    return [(start, end) for start, end in clipped if start < end]


def _cut(attended: AttendedList, spans: Mapping[int, Sequence[Span]]) -> tuple[list[list[int]], list[Place | None]]:
    """Ends of the parts, in tokens, into which each block of a list is cut; and of every part the sentence that it is.

    What belongs to no sentence, such as a title, is in parts of its own: a query may look at it in lower layers.
    """
    owners, bounds = attended.blocks.owners, attended.blocks.bounds
    blocks = [block for block, owner in enumerate(owners) if owner in spans]
    tokens = dict(zip(blocks, attended.token_spans(blocks), strict=True))
    ends: list[list[int]] = []
    places: list[Place | None] = []
    for block, ids in enumerate(attended.states.ids):
        sentences: dict[Span, Place] = {}
        for start, end in spans[owners[block]] if block in tokens else ():
            inside = max(start, bounds[block][0]), min(end, bounds[block][1])
            # A token between two sentences belongs to the second: many tokenizers put the space before a word into it.
            first, last = (bisect_right(tokens[block], border, key=itemgetter(1)) for border in inside)
            if inside[0] < inside[1] and first < last:
                sentences[first, last] = owners[block], start, end
        borders = sorted({0, len(ids), *(border for pair in sentences for border in pair)})
        ends.append(borders[1:])
        places += [sentences.get(pair) for pair in pairwise(borders)]
    return ends, places


def _mean_keys(attended: AttendedList, parts: StatePack) -> Tensor:
    """``[parts, Hk * D]`` of length 1, fp32, on the CPU: means of the keys that the scoring layer reads."""
    config = attended.engine.config
    name = HEAD_KEY if config.scoring_head else key_name(config.scoring_layer)
    keys = parts.get(name, torch.empty(0, dtype=torch.float32, device="cpu")).flatten(1)
    lengths = parts.offsets.diff()
    part_of = torch.arange(len(lengths), device="cpu").repeat_interleave(lengths)
    return F.normalize(keys.new_zeros(len(lengths), keys.shape[1]).index_add_(0, part_of, keys), dim=-1)
