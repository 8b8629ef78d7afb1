"""First stages, rerankings, and their measures."""

import gzip
import json
import sys

import pytest

from blockrank_rerank.evaluation.measures import (
    bm25_run,
    check_judged,
    evaluate_ranker,
    evaluate_run,
    measure_queries,
    read_candidates,
    require_extra,
    shuffled,
)
from blockrank_rerank.evaluation.rerank_run import check_run, rerank_run
from blockrank_rerank.evaluation.task import TaskSource
from blockrank_rerank.evaluation.words import PATTERN, spaced
from blockrank_rerank.formats import DataError, read_collection, read_corpus
from tests.fake_ranker import FakeRanker

pytest.importorskip("ir_measures")
pytest.importorskip("bm25s")

CORPUS = {
    "fleas": {"title": "Fleas", "text": "fleas live for three months"},
    "concrete": "concrete is poured into forms",
    "dogs": "dogs carry fleas",
    "empty": "",
}
QUERIES = {"q1": "how long do fleas live", "q2": "pouring concrete forms", "q3": "nothing judged relevant"}
QRELS = {"q1": {"fleas": 2, "dogs": 1}, "q2": {"concrete": 1}, "q3": {"dogs": 0}}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "qrels").mkdir()
    _write_jsonl(tmp_path / "queries.jsonl", [{"_id": key, "text": text} for key, text in QUERIES.items()])
    records = [{"_id": key} | (d if isinstance(d, dict) else {"text": d}) for key, d in CORPUS.items()]
    _write_jsonl(tmp_path / "corpus.jsonl", records)
    lines = [f"{q}\t{d}\t{score}\n" for q, judged in QRELS.items() for d, score in judged.items()]
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return tmp_path


def _write_jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_measures_of_a_known_ranking():
    measures = evaluate_run({"q": {"a": 1, "b": 1}}, {"q": {"x": 3.0, "a": 2.0}}, depth=100)
    ideal = 1 + 1 / 1.584962500721156
    assert measures == pytest.approx(
        {"nDCG@10": 0.63093 / ideal, "RR@10": 0.5, "AP": 0.25, "R@10": 0.5, "R@100": 0.5}, abs=1e-5
    )


def test_every_query_is_measured_on_its_own_and_the_mean_is_theirs():
    qrels, run = {"q": {"a": 1}, "p": {"a": 1}, "r": {"b": 1}}, {"q": {"a": 1.0}, "r": {"a": 2.0, "b": 1.0}}
    measured = measure_queries(qrels, run)
    assert measured["RR@10"] == {"q": 1.0, "p": 0.0, "r": 0.5}
    assert evaluate_run(qrels, run)["RR@10"] == pytest.approx(0.5)


def test_average_precision_heeds_the_least_relevance():
    qrels, run = {"q": {"weak": 1, "strong": 2}}, {"q": {"weak": 2.0, "strong": 1.0}}
    assert [evaluate_run(qrels, run, least)["AP"] for least in (1, 2)] == [1.0, 0.5]


def test_a_query_that_the_run_lacks_counts_as_zero():
    assert evaluate_run({"q": {"a": 1}, "p": {"a": 1}}, {"q": {"a": 1.0}})["RR@10"] == 0.5


def test_a_query_without_judgements_counts_nothing():
    assert evaluate_run({"q": {"a": 1}}, {"q": {"a": 1.0}, "unjudged": {"b": 1.0}})["RR@10"] == 1.0


def test_min_relevance_decides_reciprocal_rank_and_recall_but_not_gains():
    run, qrels = {"q": {"weak": 2.0, "strong": 1.0}}, {"q": {"weak": 1, "strong": 2}}
    lenient, strict = evaluate_run(qrels, run, 1), evaluate_run(qrels, run, 2)
    assert (lenient["RR@10"], strict["RR@10"]) == (1.0, 0.5)
    tail = {"q": {"strong": 1.0} | {f"d{number}": -number for number in range(20)} | {"weak": -99.0}}
    found = [evaluate_run(qrels, tail, least, depth=20) for least in (1, 2)]
    assert [(measures["R@10"], measures["R@20"]) for measures in found] == [(0.5, 0.5), (1.0, 1.0)]
    assert lenient["nDCG@10"] == strict["nDCG@10"] > 0


def test_ties_count_in_the_order_of_the_run_and_not_by_document_id():
    for order in (["a", "b", "c"], ["c", "b", "a"]):
        assert evaluate_run({"q": {"b": 1}}, {"q": dict.fromkeys(order, 0.0)})["RR@10"] == 0.5
        assert evaluate_run({"q": {order[0]: 1}}, {"q": dict.fromkeys(order, 0.0)})["RR@10"] == 1.0


@pytest.mark.parametrize("names", [("a\ud800", "a\ud801"), ("a\0b", "a\0c"), ("\0", "")], ids=ascii)
def test_ids_that_are_no_text_of_c_are_measured_as_any(names):
    first, second = names
    measured = measure_queries({first: {first: 0, second: 1}, second: {first: 2}}, {first: {first: 1.0, second: 0.5}})
    assert measured["RR@10"] == {first: 0.5, second: 0.0}


def test_a_recall_depth_of_ten_is_reported_once():
    assert list(evaluate_run({"q": {"a": 1}}, {}, depth=10)) == ["nDCG@10", "RR@10", "AP", "R@10"]


def test_figures_agree_with_ir_measures_on_a_run_without_ties():
    import ir_measures

    run = {query: {f"d{(i * 7 + n) % 40}": 1 / (i + 1) for i in range(30)} for n, query in enumerate("abc")}
    qrels = {query: {f"d{i}": i % 3 for i in range(0, 40, 3 + n)} for n, query in enumerate("abc")}
    expected = ir_measures.calc_aggregate([ir_measures.nDCG @ 10, ir_measures.R @ 20], qrels, run)
    ours = evaluate_run(qrels, run, depth=20)
    assert ours["nDCG@10"] == pytest.approx(expected[ir_measures.nDCG @ 10])
    assert ours["R@20"] == pytest.approx(expected[ir_measures.R @ 20])


def test_queries_without_a_positive_judgement_are_reported_and_left_out(folder):
    collection = read_collection(folder)
    assert list(collection.queries) == list(collection.qrels) == ["q1", "q2"]
    assert collection.without_positive == ("q3",)
    assert read_collection(folder, min_relevance=2).without_positive == ("q2", "q3")
    every = read_collection(folder, min_relevance=2, all_judged=True)
    assert (every.queries, every.qrels, every.without_positive) == (QUERIES, QRELS, ("q2", "q3"))


def test_a_split_without_any_positive_judgement_is_refused(folder):
    with pytest.raises(DataError, match="no document of split 'test' is judged 3 or higher"):
        read_collection(folder, min_relevance=3)


def test_an_unknown_split_names_those_that_exist(folder):
    (folder / "qrels" / "dev.tsv").write_text("q1\tfleas\t1\n")
    with pytest.raises(FileNotFoundError, match="splits available: dev, test"):
        read_collection(folder, "train")


@pytest.mark.parametrize(("least", "missing"), [(1, {"concrete", "fleas"}), (2, {"fleas"})])
def test_a_judgement_of_exactly_the_least_counts_as_relevant_when_the_corpus_lacks_it(folder, least, missing):
    corpus = {name: text for name, text in CORPUS.items() if name not in missing}
    collection = read_collection(folder, min_relevance=1)
    if least == 1:  # the third relevant document is there
        with pytest.warns(UserWarning, match="2 of 3 relevant documents are not in corpus.jsonl, such as 'concrete'"):
            check_judged(collection, corpus, folder, "test", least)
    else:
        with pytest.raises(DataError, match=r"none of the 1 relevant documents .*, such as 'fleas'"):
            check_judged(collection, corpus, folder, "test", least)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*absent"):
        read_collection(tmp_path / "absent")


def test_a_judged_query_without_text_is_refused(folder):
    _write_jsonl(folder / "queries.jsonl", [{"_id": "q1", "text": "x"}])
    with pytest.raises(DataError, match="query 'q2' is judged but has no text"):
        read_collection(folder)


def test_a_sample_of_queries_depends_on_the_seed_alone(folder):
    collection = read_collection(folder)
    drawn = [tuple(collection.sample(1, seed).queries) for seed in range(20)]
    assert drawn == [tuple(collection.sample(1, seed).queries) for seed in range(20)]
    assert set(drawn) == {("q1",), ("q2",)}
    assert collection.sample(5, 0) == collection


def test_bm25_finds_words_of_title_and_text_and_nothing_else():
    run = bm25_run(QUERIES | {"stop": "the of and", "blank": ""}, CORPUS)
    assert list(run["q1"]) == ["fleas", "dogs"]
    assert list(run["q2"]) == ["concrete"]
    assert run["q3"] == run["stop"] == run["blank"] == {}
    assert all(isinstance(score, float) for ranking in run.values() for score in ranking.values())
    assert list(bm25_run({"q": "months"}, {"a": {"title": "months", "text": ""}, "b": "x"})["q"]) == ["a"]


def test_bm25_returns_no_more_than_the_depth():
    assert [len(ranking) for ranking in bm25_run(QUERIES, CORPUS, depth=1).values()] == [1, 1, 0]


def test_bm25_of_a_corpus_without_words_finds_nothing():
    assert bm25_run({"q": "fleas"}, {"a": "", "b": "?"}) == {"q": {}}


def test_candidates_are_shuffled_by_seed_and_query_alone():
    run = {query: {f"d{i}": -float(i) for i in range(20)} for query in "ab"}
    assert shuffled(run, 1) == run
    orders = {seed: [*map(list, shuffled(run, seed).values())] for seed in (1, 2)}
    assert orders[1] != orders[2]
    assert orders[1][0] != orders[1][1]
    assert list(shuffled({"b": run["b"]}, 1)["b"]) == orders[1][1]


def test_reranking_improves_a_bad_first_stage(folder):
    first_stage = {"q1": {"concrete": 3.0, "dogs": 2.0, "fleas": 1.0}, "q2": {"dogs": 2.0, "concrete": 1.0}}
    ranker = FakeRanker()
    evaluation = evaluate_ranker(ranker, read_collection(folder), CORPUS, first_stage)
    assert evaluation.before["RR@10"] == 0.5
    assert evaluation.after["RR@10"] == 1.0
    assert evaluation.before["R@100"] == evaluation.after["R@100"] == 1.0
    assert (evaluation.queries, evaluation.reranked.documents, evaluation.without_candidates) == (2, 5, 0)
    assert evaluation.reranked.tokens > 0


def test_a_ranker_that_echoes_its_input_order_gains_nothing_from_the_first_stage(folder):
    class Echo(FakeRanker):
        def _ranking(self, query, documents, threshold):
            ranked = super()._ranking(query, documents, threshold)
            for document in ranked:
                document.score = 1.0 / (1 + document.index)
            return sorted(ranked, key=lambda document: document.index)

    corpus = {f"d{i}": "x" for i in range(100)}
    first_stage = {"q1": {"fleas": 9.0} | {f"d{i}": -float(i) for i in range(99)}, "q2": {"concrete": 1.0}}
    evaluation = evaluate_ranker(Echo(), read_collection(folder), CORPUS | corpus, first_stage)
    assert evaluation.before["RR@10"] == 1.0
    assert evaluation.after["RR@10"] < 0.7


def test_candidates_of_one_score_are_no_ranking_and_are_not_measured_as_one(folder):
    corpus = CORPUS | {f"d{i}": "x" for i in range(200)}
    first_stage = {"q1": dict.fromkeys(["fleas", "dogs", *(f"d{i}" for i in range(200))], 0.0)}
    evaluation = evaluate_ranker(FakeRanker(), read_collection(folder), corpus, first_stage, depth=150)
    assert evaluation.before["RR@10"] < 0.5
    assert (evaluation.unranked, evaluation.without_candidates) == (1, 1)


def test_only_the_candidates_of_judged_queries_down_to_the_depth_are_scored(folder):
    ranker = FakeRanker()
    first_stage = {"q1": {"dogs": 2.0, "fleas": 1.0}, "q3": {"dogs": 1.0}, "q2": {}}
    evaluation = evaluate_ranker(ranker, read_collection(folder), CORPUS, first_stage, depth=1)
    assert ranker.requests == [(QUERIES["q1"], [CORPUS["dogs"]])]
    assert evaluation.without_candidates == 1


def test_candidates_are_read_without_the_rest_of_the_corpus(folder):
    assert read_candidates(folder, {"q1": {"dogs": 1.0}}) == {"dogs": "dogs carry fleas"}
    with pytest.raises(DataError, match="the run names 1 documents without text: absent"):
        read_candidates(folder, {"q1": {"dogs": 1.0, "absent": 0.5}})


def test_missing_texts_are_counted_and_the_first_few_are_named():
    run = {f"q{i}": {f"d{i}": 1.0} for i in range(7)}
    with pytest.raises(DataError, match=r"the run names 7 queries without text: q0, q1, q2, q3, q4, …$"):
        check_run(run, {}, {})
    with pytest.raises(DataError, match=r"the run names 7 documents without text: d0, d1, d2, d3, d4, …$"):
        check_run(run, dict.fromkeys(run, "x"), {})


def test_reranking_a_run_keeps_every_document_with_its_own_score():
    result = rerank_run(FakeRanker(), {"q1": dict.fromkeys(CORPUS, 0.0)}, QUERIES, CORPUS)
    assert list(result.run["q1"])[:2] == ["fleas", "dogs"]
    assert set(result.run["q1"]) == set(CORPUS)
    assert sum(result.run["q1"].values()) == pytest.approx(1.0)


@pytest.mark.parametrize("limits", [{"top_k": 1}, {"threshold": 0.5}, {"threshold": 2.0}])
def test_documents_that_limits_leave_out_of_a_run_count_as_scored(limits):
    run = {"q1": dict.fromkeys(CORPUS, 0.0), "q2": {"concrete": 0.0}}
    result = rerank_run(FakeRanker(), run, QUERIES, CORPUS, **limits)
    assert result.documents == len(CORPUS) + 1 > sum(map(len, result.run.values()))


def test_a_missing_extra_names_the_line_that_installs_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "bm25s", raising=False)

    class Blocked:
        def find_spec(self, name, path=None, target=None):
            if name == "bm25s":
                raise ImportError("blocked")

    monkeypatch.setattr(sys, "meta_path", [Blocked(), *sys.meta_path])
    with pytest.raises(ImportError, match=r"needs bm25s.*pip install '\.\[eval\]'"):
        require_extra()


def test_a_corpus_on_disk_and_one_in_memory_are_the_same(folder):
    assert read_corpus(folder / "corpus.jsonl") == CORPUS


@pytest.mark.parametrize("run", [None, "a.trec"])
def test_a_compressed_collection_is_the_same(folder, run):
    (folder / "a.trec").write_text("q1 Q0 dogs 1 1.0 t\n")
    source = TaskSource(folder=folder, run=run and folder / run)
    expected = source.read()
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        path = folder / name
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert source.read() == expected


# Scripts without spaces


@pytest.mark.parametrize(
    ("query", "answer", "other"),
    [
        ("如何重置路由器密码", "要重置路由器密码，请按住重置按钮十秒钟。", "每年的花展将于五月开幕。"),
        ("パスワードのリセット", "ルーターのパスワードをリセットする", "花の展覧会は五月"),
        ("ﾊﾟｽﾜｰﾄﾞ", "パスワードをリセットする", "花の展覧会は五月"),
        ("รีเซ็ตรหัสผ่าน", "วิธีรีเซ็ตรหัสผ่านเราเตอร์", "งานดอกไม้ประจำปี"),
        ("ຫລວງພະບາງ", "ເມືອງຫລວງພະບາງ", "ດອກໄມ້"),
        ("ពាក្យសម្ងាត់", "កំណត់ពាក្យសម្ងាត់", "ផ្កា"),
        ("iPhone手机", "新手机iPhone发布", "花展"),
        ("दिल्ली", "भारत की राजधानी दिल्ली है", "पानी"),
        ("猫", "黑猫", "狗"),
    ],
)
def test_bm25_finds_texts_of_scripts_without_spaces(query, answer, other):
    assert next(iter(bm25_run({"q": query}, {"other": other, "answer": answer})["q"])) == "answer"


def test_words_of_scripts_with_spaces_are_those_of_bm25s_itself():
    import bm25s

    texts = ["Hello, the world of a U.S. co-operation naïve 42", "cafe\u0301 Straße", "서울 날씨", "", "x y zz"]
    plain = bm25s.tokenize(texts, stopwords="en", return_ids=False, show_progress=False)
    assert (
        bm25s.tokenize(
            [*map(spaced, texts)], token_pattern=PATTERN, stopwords="en", return_ids=False, show_progress=False
        )
        == plain
    )


def test_punctuation_of_scripts_without_spaces_is_no_word_and_joins_none():
    assert spaced("ab・か。き") == "ab か 。 き "


def test_a_first_stage_without_any_candidate_is_refused(folder):
    with pytest.raises(DataError, match="the first stage finds no document for any of the 2 queries"):
        evaluate_ranker(FakeRanker(), read_collection(folder), CORPUS, {"q1": {}})


# Queries that are documents of the corpus

ARGUMENT = "zoning laws lower rents"


@pytest.mark.parametrize(
    "document",
    [
        ARGUMENT,
        f" {ARGUMENT}\n",
        {"title": "Zoning", "text": ARGUMENT},
        {"title": "zoning laws", "text": "lower rents"},
    ],
)
def test_a_query_does_not_find_itself(folder, document):
    corpus = {"q1": document, "d": "zoning again", "e": "rents again"}
    assert set(bm25_run({"q1": ARGUMENT}, corpus)["q1"]) == {"d", "e"}
    assert len(bm25_run({"q1": ARGUMENT}, corpus, depth=2)["q1"]) == 2


@pytest.mark.parametrize("document", ["zoning", f"{ARGUMENT} and taxes", {"title": ARGUMENT, "text": "body"}])
def test_another_text_under_the_id_of_the_query_stays(document):
    assert "q1" in bm25_run({"q1": ARGUMENT}, {"q1": document, "d": "fleas"})["q1"]


def test_the_text_of_the_query_under_another_id_stays():
    assert "d" in bm25_run({"q1": ARGUMENT}, {"d": ARGUMENT})["q1"]


def test_a_query_in_the_corpus_is_measured_without_its_own_document(folder):
    corpus = CORPUS | {"q1": QUERIES["q1"], "q2": "another text"}
    first_stage = {"q1": {"q1": 9.0, "fleas": 2.0, "dogs": 1.0}, "q2": {"q2": 2.0, "concrete": 1.0}}
    ranker = FakeRanker()
    evaluation = evaluate_ranker(ranker, read_collection(folder), corpus, first_stage, depth=2)
    assert evaluation.in_corpus == 1
    assert evaluation.before["RR@10"] == (1 + 1 / 2) / 2
    assert set(evaluation.reranked.run["q1"]) == {"fleas", "dogs"}
    assert set(evaluation.reranked.run["q2"]) == {"q2", "concrete"}
