"""The report of a tiny collection: its parts, its page, its numbers."""

import json
import re
import statistics
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.evaluation.measures import evaluate_ranker
from blockrank_rerank.evaluation.report import contestants, latency
from blockrank_rerank.evaluation.report.build import ReportBuilder, read_task
from blockrank_rerank.evaluation.report.contestants import (
    base_contestants,
    blockrank_contestant,
    check_names,
    other_contestants,
)
from blockrank_rerank.evaluation.report.latency import measure_latency, timed_lists
from blockrank_rerank.evaluation.report.page import html, numbers_json, write_report
from blockrank_rerank.evaluation.report.worst import worst_queries
from blockrank_rerank.evaluation.stuffing import WAYS
from blockrank_rerank.text.document import document_text
from tests.evaluation.report.collection import COMMAND, DOCUMENTS, QUERIES, told
from tests.fake_ranker import FakeRanker
from tests.tiny_models import CONFIG, save_model

for module in ("ir_measures", "bm25s", "matplotlib", "jinja2"):
    pytest.importorskip(module)

VOID = {"meta", "br", "img"}


class Page(HTMLParser):
    """What a browser would make of a page: elements, attributes, texts, tables."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.tables, self._cells = {}, None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._rows = self.tables.setdefault(dict(attrs).get("id", f"table {len(self.tables)}"), [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if {"td", "th"} & {*self.open[-2:]}:
            self._rows[-1][-1] += data


# The parts


def test_rows_are_the_first_stage_and_every_ranker_on_the_same_candidates(numbers, source, ours):
    assert [row.name for row in numbers.rows] == ["BM25", "BlockRank $tiny$ <i>", "words"]
    evaluation = evaluate_ranker(ours.ranker, *read_task(source), depth=8)
    for row, expected in zip(numbers.rows, (evaluation.before, evaluation.after), strict=False):
        assert row.measures == pytest.approx(expected)
        assert row.interval.low <= row.interval.mean == row.measures["nDCG@10"] <= row.interval.high
    assert {row.measures["R@8"] for row in numbers.rows} == {numbers.collection.recall}


def test_every_other_row_is_paired_with_ours(numbers):
    first, ours, words = numbers.rows
    assert ours.ours is None
    for row in (first, words):
        assert row.ours.mean == pytest.approx(ours.measures["nDCG@10"] - row.measures["nDCG@10"])
        assert row.ours.better + row.ours.worse + row.ours.equal == len(QUERIES)


def test_the_depth_curve_goes_to_the_end_of_the_first_stage_and_agrees_with_the_table(numbers, source):
    longest = max(map(len, read_task(source).first_stage.values()))
    assert 8 < longest <= len(DOCUMENTS)
    assert [each.depth for each in numbers.depths] == [*([10] if longest > 10 else []), longest]
    recalls = [each.recall for each in numbers.depths]
    assert recalls == sorted(recalls)


def test_orders_of_the_candidates_change_nothing_where_documents_are_not_numbered(numbers):
    (found,) = numbers.permutations
    assert found.name == numbers.model
    assert len(found.values) == 5
    assert found.variance == pytest.approx(0, abs=1e-12)
    assert found.values[0] == pytest.approx(numbers.rows[1].measures["nDCG@10"])


def test_orders_of_the_candidates_show_where_the_order_decides(source, words):
    class FirstWins(FakeRanker):
        def _ranking(self, query, documents, threshold):
            ranking = super()._ranking(query, documents, threshold)
            return sorted(ranking, key=lambda document: document.index)

    builder = ReportBuilder(
        source=source,
        task=read_task(source),
        contestants=[replace(words, ranker=FirstWins(), in_context=True)],
        progress=lambda what, total: told([], what, total),
    )
    (found,) = builder._permutations()
    assert len({*found.values}) > 1
    assert found.variance == pytest.approx(statistics.pvariance(found.values)) != 0


def test_every_way_is_timed(numbers):
    assert [(each.name, each.way) for each in numbers.latencies] == [
        *((numbers.model, way) for way in ("cold", "cached", "prepared")),
        ("words", "cold"),
    ]
    assert all(each.queries == 4 and 0 < each.p50 <= each.p95 for each in numbers.latencies)


def test_all_ways_of_a_model_rank_alike(ours):
    documents = [document_text(document, 0) for document in DOCUMENTS.values()]
    rankings = [
        [(found.index, pytest.approx(found.raw_score, abs=1e-4)) for found in way(QUERIES["q3"], documents)()]
        for way in ours.ways.values()
    ]
    assert rankings[0] == [(number, score.expected) for number, score in rankings[1]]
    assert rankings[0] == [(number, score.expected) for number, score in rankings[2]]


def test_only_queries_with_candidates_are_timed(source):
    task = read_task(source)
    few = task._replace(first_stage={**task.first_stage, "q1": {}, "q2": {}})
    lists = timed_lists(few, 3, 0)
    assert sorted(query for query, _ in lists) == sorted(QUERIES[name] for name in ("q3", "q4"))
    assert max(len(documents) for _, documents in lists) == 3


def test_fewer_lists_are_timed_where_these_take_long(ours, monkeypatch):
    lists = [(QUERIES["q3"], [document_text(document, 0) for document in DOCUMENTS.values()])] * 3
    cold = replace(ours, ways={"cold": ours.ways["cold"]})
    monkeypatch.setattr(latency, "FEWEST", 2)
    assert [row.queries for row in measure_latency(cold, lists)] == [3]
    monkeypatch.setattr(latency, "SECONDS", 0.0)
    assert [row.queries for row in measure_latency(cold, lists)] == [2]


def test_a_model_is_loaded_once_for_all_that_is_measured(model):
    rankers = []

    def load(cache):
        rankers.append(BlockRankReranker.from_pretrained(model, device="cpu", cache=cache))
        return rankers[-1]

    blockrank_contestant("tiny", load, "1MB")
    cold, caching = rankers
    assert cold.engine is caching.engine
    assert (cold.cache_info, caching.cache_info.max_bytes) == (None, 10**6)


def test_every_ranker_and_bm25_are_stuffed_in_every_way(numbers):
    assert [*numbers.stuffing.shares] == [numbers.model, "words", "BM25"]
    assert all([*shares] == [*WAYS] for shares in numbers.stuffing.shares.values())
    assert numbers.stuffing.shares["BM25"]["query x5"] == 1


def test_only_models_with_probabilities_are_calibrated(numbers):
    (found,) = numbers.calibrations
    assert found.name == numbers.model
    assert found.values.queries == len(QUERIES)
    assert sum(each.documents for each in found.values.bins) == found.values.documents


def test_the_worst_queries_lose_most_and_then_are_lowest():
    first = {"a": 0.5, "b": 0.9, "c": 0.1, "d": 0.0}
    ours = {"a": 0.4, "b": 0.2, "c": 0.1, "d": 0.0}
    assert [each.query for each in worst_queries(first, ours)] == ["b", "a", "d", "c"]
    many = {f"q{number}": 0.5 for number in range(30)}
    assert len(worst_queries(many, many)) == 10


def test_every_part_says_how_far_it_is(built):
    log = built[1]
    assert [what for what, *_ in log] == [
        "same candidates",
        "more candidates",
        "other orders",
        "timing",
        "stuffing",
        "calibration",
    ]
    assert all(total == done > 0 for _, total, done in log)


# The page and the numbers


def test_texts_are_texts_in_the_page_and_never_markup(report):
    text = html(report)
    page = Page(text)
    assert not page.open
    assert not {"script", "b", "i", "u", "img", "iframe", "link"} & {*page.tags}
    assert not [value for _, name, value in page.attributes if name.startswith("on")]
    shown = " ".join("".join(page.texts).split())
    for expected in (QUERIES["q1"], QUERIES["q2"], 'onerror="document.title=1"', "{{ 7 * 7 }}", COMMAND, "<u>is</u>"):
        assert expected in shown
    assert "\\x1b" in shown
    assert "\x1b" not in text


def test_nothing_is_fetched_by_the_page(report):
    text = html(report)
    assert not re.findall(r"@import|url\((?!#)", text)
    links = [value for _, name, value in Page(text).attributes if name in ("src", "href", "xlink:href", "srcset")]
    assert all(value.startswith("#") for value in links)
    assert "default-src 'none'" in text


def test_ids_in_the_page_are_given_once(report):
    identifiers = [value for _, name, value in Page(html(report)).attributes if name == "id"]
    assert len(identifiers) == len({*identifiers}) > 10


def test_plots_take_the_colour_of_the_page_and_show_names_as_they_are(report):
    text = html(report)
    plots = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(plots) == 3
    assert all("currentColor" in plot and "#010203" not in plot for plot in plots)
    assert "BlockRank $tiny$ &lt;i&gt;" in plots[1]
    assert "mathdefault" not in text
    assert all(f"{way}</text>" in plots[1] for way in ("cold", "cached", "prepared"))
    assert "prefers-color-scheme: dark" in text


def test_tables_show_the_numbers(report, numbers):
    page = Page(html(report))
    quality = page.tables["quality"]
    assert [row[0] for row in quality[1:]] == [row.name for row in numbers.rows]
    assert quality[2][1].startswith(f"{numbers.rows[1].measures['nDCG@10']:.3f} [")
    assert quality[1][5].startswith(f"{numbers.rows[0].ours.mean:+.3f} [")
    assert len(page.tables["latency"]) == 1 + len(numbers.latencies)
    assert len(page.tables["stuffing"]) == 1 + len(WAYS)
    assert page.tags.count("details") == len(QUERIES)


def test_lone_surrogates_do_not_stop_the_page(report):
    broken = replace(report.worst[0], text="half \ud83d of one")
    assert "half ? of one" in html(replace(report, worst=[broken]))


def test_the_numbers_beside_the_page_hold_no_text_of_the_collection(report, tmp_path):
    path = tmp_path / "page.html"
    write_report(report, path)
    assert path.read_text(encoding="utf-8") == html(report)
    written = (tmp_path / "page.json").read_text(encoding="utf-8")
    assert written == numbers_json(report.numbers)
    found = json.loads(written)
    assert (found["format"], found["model"], len(found["rows"])) == (1, "BlockRank $tiny$ <i>", 3)
    assert found["calibrations"][0]["values"]["passes"][0].keys() == {"threshold", "with_answer", "without_answer"}
    for text in [*QUERIES.values(), *(each["text"] for each in DOCUMENTS.values()), *DOCUMENTS]:
        assert json.dumps(text)[1:-1] not in written


def test_a_report_without_probabilities_or_a_stuffed_document_leaves_these_parts_out(report):
    numbers = replace(report.numbers, calibrations=[], stuffing=None)
    page = Page(html(replace(report, numbers=numbers)))
    assert page.tags.count("svg") == 2
    assert "stuffing" not in page.tables


# Contestants


def test_documents_that_depend_on_the_query_are_neither_cached_nor_prepared(tmp_path):
    CONFIG.save(save_model(tmp_path / "llama", "llama"))
    load = []

    def loader(cache):
        load.append(cache)
        return BlockRankReranker.from_pretrained(tmp_path / "llama", device="cpu", cache=cache)

    found = blockrank_contestant("llama", loader, "1MB")
    assert load == [None]
    assert [*found.ways] == ["cold"]
    assert not found.probabilities


def test_another_blockrank_model_computes_as_ours_does(model):
    ours = BlockRankReranker.from_pretrained(model, device="cpu", dtype="bfloat16")
    (found,) = other_contestants(str(model), ours, "1MB")
    assert str(found.ranker.dtype) == "torch.bfloat16"
    assert found.ranker.cache_info.max_bytes == 10**6


def test_two_models_of_one_name_are_refused(words):
    with pytest.raises(ValueError, match="expected every model once, got 'words' twice"):
        check_names([words, words])


def test_the_base_is_left_out_where_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(contestants, "BASE_PACKAGE", "no_such_package")
    assert base_contestants(None) == []
