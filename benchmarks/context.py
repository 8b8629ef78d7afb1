"""Measure how much of the evidence survives when candidates are cut to a budget of tokens.

    python benchmarks/context.py FOLDER [--store STORE] [--queries 100] [--model default] [--weights 0.5]
    python benchmarks/context.py FOLDER --joined            # a training collection of short documents

FOLDER is a BEIR folder with the exact evidence of each query: spans.jsonl (query-id, corpus-id, start, end) or
gold_sentences.jsonl (query-id, corpus-id, gold: a list of start and end), in code points of the corpus's texts. With
--joined, short documents are joined into longer ones, and those that were judged are the evidence inside these:
neighbours of one title, or else those that BM25 finds most alike.

BM25's top 20 are cut by `context` and by the simple ways: whole passages in the order of the same ranking, and the best
sentences of all passages, by BM25 (among the sentences of the list) and by the cosine of all-MiniLM-L6-v2. All count
tokens with the model's tokenizer, skip what does not fit any more and go on. Printed is the mean share of the evidence
that survives, in its place or as a copy elsewhere; the same words in several passages count once. Differences have the
interval of a paired bootstrap.
--weights tries several weights of the document's score in a sentence's.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from quality import cosine_ranker

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.evaluation.machine import machine
from blockrank_rerank.evaluation.measures import bm25_run
from blockrank_rerank.evaluation.paired import mean_interval, paired_difference
from blockrank_rerank.formats.qrels import read_qrels
from blockrank_rerank.ranking.attended import AttendedList
from blockrank_rerank.ranking.context import sentence
from blockrank_rerank.ranking.context.context import build_context
from blockrank_rerank.ranking.context.settings import ContextSettings
from blockrank_rerank.text.sentences import sentence_spans

BUDGETS, DEPTH, JOINED_WORDS = (250, 500, 1000, 2000), 20, 150
CONTEXT = "context"

Part = tuple[str, int, int]
"""Document, start and end."""


class Evidence(NamedTuple):
    """Documents, queries, and for each query the parts that answer it."""

    corpus: dict[str, dict[str, str]]
    queries: dict[str, str]
    parts: dict[str, list[Part]]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_evidence(folder: Path, joined: bool) -> Evidence:
    corpus = {
        row["_id"]: {"title": row.get("title") or "", "text": row["text"]} for row in lines(folder / "corpus.jsonl")
    }
    parts: dict[str, list[Part]] = {}
    if joined:
        corpus, places = join(corpus)
        for query, judged in read_qrels(folder / "qrels" / "train.tsv").items():
            parts[query] = [places[document] for document, grade in judged.items() if grade > 0]
    elif (folder / "spans.jsonl").exists():
        for row in lines(folder / "spans.jsonl"):
            parts.setdefault(row["query-id"], []).append((row["corpus-id"], row["start"], row["end"]))
    else:
        for row in lines(folder / "gold_sentences.jsonl"):
            found = [(row["corpus-id"], gold["start"], gold["end"]) for gold in row["gold"]]
            parts.setdefault(row["query-id"], []).extend(found)
    queries = {row["_id"]: row.get("question") or row["text"] for row in lines(folder / "queries.jsonl")}
    return Evidence(corpus, {query: text for query, text in queries.items() if parts.get(query)}, parts)


def join(corpus: Mapping[str, dict[str, str]]) -> tuple[dict[str, dict[str, str]], dict[str, Part]]:
    """Longer documents, and where in them each short one is."""
    longer, places = {}, {}
    for group in together(corpus):
        name = f"joined-{len(longer)}"
        text = ""
        for document in group:
            start = len(text) + bool(text)
            text = f"{text} {corpus[document]['text'].strip()}".strip()
            places[document] = name, start, len(text)
        longer[name] = {"title": corpus[group[0]]["title"], "text": text}
    return longer, places


def together(corpus: Mapping[str, dict[str, str]]) -> Iterable[list[str]]:
    """Documents of one title in their order, or those that are alike, up to so many words."""
    texts = {name: document["text"] for name, document in corpus.items()}
    by_title: dict[str, list[str]] = {}
    for name, document in corpus.items():
        by_title.setdefault(document["title"], []).append(name)
    alike = {name: [*found] for name, found in bm25_run(texts, corpus, 30).items()} if len(by_title) == 1 else by_title
    seen: set[str] = set()
    for first, document in corpus.items():
        if first in seen:
            continue
        group = [first]
        for name in alike[first if len(by_title) == 1 else document["title"]]:
            long = sum(len(texts[other].split()) for other in [*group, name]) > JOINED_WORDS
            if name not in seen and name != first and not long:
                group.append(name)
        seen.update(group)
        random.Random(first).shuffle(group)
        yield group


def fill(parts: Sequence[Part], cost: Callable[[Part], int], budget: int) -> list[Part]:
    """Take what fits, best first."""
    taken = []
    for part in parts:
        if (price := cost(part)) <= budget:
            budget -= price
            taken.append(part)
    return taken


def survives(evidence: Sequence[Part], kept: Sequence[Part], corpus: Mapping[str, dict[str, str]]) -> float:
    """Share of the evidence's characters that is kept, wherever its words stand: a copy elsewhere serves as well."""
    most: dict[str, float] = {}
    texts = [corpus[other]["text"][a:b] for other, a, b in kept]
    for name, start, end in evidence:
        inside = {i for other, a, b in kept if other == name for i in range(max(start, a), min(end, b))}
        words = corpus[name]["text"][start:end]
        copied = any(words.strip() in text for text in texts)
        most[words] = max(most.get(words, 0), len(words) if copied else len(inside))
    return sum(most.values()) / sum(map(len, most))


class Query:
    """One query's candidates, in every way's order."""

    def __init__(self, evidence: Evidence, query: str, names: Sequence[str], ranker: Any, cosine: Any) -> None:
        self.text, self.names, self.corpus = evidence.queries[query], [*names], evidence.corpus
        self.evidence = evidence.parts[query]
        self.attended = AttendedList.of(
            lambda: ranker.engine, ranker.lookup, self.text, [self.corpus[n] for n in names]
        )
        self.sentences = [(n, *span) for n in names for span in sentence_spans(self.corpus[n]["text"])]
        self.costs: dict[Part, int] = {}
        whole = [(self.names[r.index], 0, len(r.text)) for r in self.attended.ranking]
        self.orders = {"passages": whole, "BM25 sentences": self.by_bm25(), "MiniLM sentences": self.by_cosine(cosine)}

    def words(self, part: Part) -> str:
        """The text of a part."""
        return self.corpus[part[0]]["text"][part[1] : part[2]]

    def by_bm25(self) -> list[Part]:
        """Sentences, best first; those that share no word come last."""
        texts = {str(number): self.words(part) for number, part in enumerate(self.sentences)}
        found = bm25_run({"q": self.text}, texts, len(texts))["q"]
        rest = [number for number in texts if number not in found]
        return [self.sentences[int(number)] for number in [*found, *rest]]

    def by_cosine(self, cosine: Any) -> list[Part]:
        """Sentences, best first."""
        vectors = [cosine.vector(self.words(part)) for part in self.sentences]
        scores = cosine.ranker.compare(cosine.ranker.query(self.text), vectors)
        return [part for _, part in sorted(zip(scores, self.sentences, strict=True), key=lambda pair: -pair[0])]

    def cost(self, part: Part) -> int:
        """Tokens of a part."""
        if part not in self.costs:
            self.costs[part] = self.attended.engine.prompt.count(self.words(part))
        return self.costs[part]

    def kept(self, way: str, budget: int) -> list[Part]:
        """What a way keeps within a budget."""
        if way != CONTEXT:
            return fill(self.orders[way], self.cost, budget)
        context = build_context(self.attended, self.attended.ranking, ContextSettings(budget))
        return [(self.names[piece.index], piece.start, piece.end) for piece in context.pieces]

    def survives(self, way: str, budget: int) -> float:
        """Share of the evidence that a way keeps."""
        return survives(self.evidence, self.kept(way, budget), self.corpus)


class Vectors:
    """Sentences' embeddings, each made once."""

    def __init__(self) -> None:
        self.ranker, self.made = cosine_ranker(None), {}

    def add(self, texts: Iterable[str]) -> None:
        """Read texts."""
        new = [text for text in dict.fromkeys(texts) if text not in self.made]
        self.made |= dict(zip(new, self.ranker.documents(new), strict=True))

    def vector(self, text: str) -> Any:
        """The embedding of a text that was read."""
        return self.made[text]


def main(
    folder: Path, joined: bool, store: Path | None, model: str, queries: int, weights: list[float], dtype: str
) -> None:
    evidence = read_evidence(folder, joined)
    chosen = random.Random(0).sample(sorted(evidence.queries), min(queries, len(evidence.queries)))
    run = bm25_run({query: evidence.queries[query] for query in chosen}, evidence.corpus, DEPTH)
    ranker = BlockRankReranker.from_pretrained(model, dtype=dtype, store=store, cache=None if store else "2GB")
    cosine, found = Vectors(), []
    for query in chosen:
        texts = [evidence.corpus[name]["text"] for name in run[query]]
        cosine.add(text[start:end] for text in texts for start, end in sentence_spans(text))
        if run[query]:
            found.append(Query(evidence, query, [*run[query]], ranker, cosine))
    print(machine())
    print(f"{folder.name}: {len(found)} queries with candidates of {len(chosen)}; BM25's top {DEPTH}")
    everything = [survives(q.evidence, [(n, 0, len(q.corpus[n]["text"])) for n in q.names], q.corpus) for q in found]
    print(f"the candidates hold {mean_interval(everything).mean:.1%} of the evidence", flush=True)
    for budget in BUDGETS:
        simple = {way: [q.survives(way, budget) for q in found] for way in found[0].orders}
        for way, values in simple.items():
            print(f"{budget:5} tokens  {way:24} {100 * mean_interval(values).mean:5.1f}")
        for weight in weights or [sentence.DOCUMENT_WEIGHT]:
            sentence.DOCUMENT_WEIGHT = weight
            values = [q.survives(CONTEXT, budget) for q in found]
            gains = {way: paired_difference(values, others) for way, others in simple.items()}
            shown = ", ".join(
                f"{way} {100 * d.mean:+.1f} [{100 * d.low:+.1f}, {100 * d.high:+.1f}]" for way, d in gains.items()
            )
            print(
                f"{budget:5} tokens  {CONTEXT} ({weight:g})  {100 * mean_interval(values).mean:10.1f}  against {shown}",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--joined", action="store_true")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--weights", type=float, nargs="*", default=[])
    parser.add_argument("--dtype", default="bfloat16")
    main(**vars(parser.parse_args()))
