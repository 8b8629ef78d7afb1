"""A check of training data that goes on after a fault."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blockrank_rerank.finetune.data.beir_folder import read_judged_corpus
from blockrank_rerank.finetune.data.example import TrainingExample
from blockrank_rerank.finetune.data.reader import expanded_source, iterate_rows, resolve_format
from blockrank_rerank.finetune.data.row import OnFault
from blockrank_rerank.finetune.validation.report import DataReport
from blockrank_rerank.finetune.validation.statistics import CountTokens, StatisticsCounter
from blockrank_rerank.formats import DataError
from blockrank_rerank.system.files import UserPath
from blockrank_rerank.text.prompt import PromptEncoder


def validate(
    *sources: UserPath,
    split: str = "train",
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    tokenizer: Any = None,
    token_cap: int | None = None,
    prompt: PromptEncoder | None = None,
    max_faults: int = 1000,
) -> DataReport:
    """Read all of the data, and report every faulty line and what there is.

    Parameters
    ----------
    *sources : str or path-like
        As `read_examples` takes them.
    split, format, columns
        As `read_examples` takes them, for all sources.
    tokenizer : transformers tokenizer, optional
        For the share of documents that are longer than `token_cap`, not counting the prompt around them.
    token_cap : int, optional
        Most tokens of a document; goes together with the tokenizer.
    prompt : PromptEncoder, optional
        Of the model that is to be trained: a query that it cannot read is a fault, and one that it cuts is counted.
    max_faults : int
        Faults that are kept; all are counted.

    Returns
    -------
    DataReport
        Of a line with several faults the first is reported.

    Raises
    ------
    FileNotFoundError
        If a file, folder or split is missing.
    ValueError
        If the tokenizer comes without a cap, or the cap without a tokenizer.
    """
    if not sources:
        raise ValueError("sources must name at least one file, folder or dataset")
    if (tokenizer is None) != (token_cap is None):
        raise ValueError("tokenizer and token_cap go together: the share of longer documents needs both")
    counter = StatisticsCounter(None if tokenizer is None else _token_counter(tokenizer), token_cap)
    faults = _Faults(max_faults)
    queries = _Queries(prompt, counter, faults.add)
    for source in map(expanded_source, sources):
        _take_in(source, resolve_format(source, format, columns), split, columns, queries, faults.add)
    return DataReport(
        sources=tuple(map(str, sources)),
        faults=tuple(faults.first),
        fault_count=faults.count,
        statistics=counter.statistics(),
    )


class _Faults:
    def __init__(self, most: int) -> None:
        self._most = most
        self.first: list[DataError] = []
        self.count = 0

    def add(self, fault: DataError) -> None:
        self.count += 1
        if self.count <= self._most:
            self.first.append(fault)


class _Queries:
    """Counts examples whose queries a model can read; without a model, all of them."""

    def __init__(self, prompt: PromptEncoder | None, counter: StatisticsCounter, on_fault: OnFault) -> None:
        self._prompt, self.counter, self._on_fault = prompt, counter, on_fault

    def add(self, example: TrainingExample) -> None:
        try:
            cut = self._prompt is not None and self._prompt.fitting(example.query) != example.query
        except ValueError as error:
            path, _, line = example.source.rpartition(":")
            numbered = bool(path) and line.isdecimal()
            self._on_fault(DataError(str(error), path if numbered else example.source, int(line) if numbered else None))
        else:
            self.counter.add(example, cut)


def _take_in(
    source: str | Path,
    form: str,
    split: str,
    columns: Mapping[str, str] | None,
    queries: _Queries,
    on_fault: OnFault,
) -> None:
    if form != "beir":
        for example in iterate_rows(source, form, split, columns, on_fault):
            queries.add(example)
        return
    corpus = read_judged_corpus(Path(source), split, on_fault)
    queries.counter.add_documents(corpus.documents.values(), len(corpus.copies))
    for query in corpus.queries:
        queries.add(corpus.example(query, corpus.negatives[query]))


def _token_counter(tokenizer: Any) -> CountTokens:
    def count(texts: Any) -> list[int]:
        # verbose: a document longer than the model is what is looked for here, and no reason to warn.
        return [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]

    return count
