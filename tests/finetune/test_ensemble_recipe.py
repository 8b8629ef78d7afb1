"""The recipe of the default model, from BEIR folders to a trained model, on collections made here."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import yaml

import blockrank_rerank
from blockrank_rerank import BlockRankReranker
from blockrank_rerank.finetune import FinetuneSettings, finetune
from blockrank_rerank.finetune.data import Candidate, TrainingExample, read_examples
from recipes.ensemble import ensemble, lists, opposites, passages, pools, variants, vectors
from recipes.ensemble.start import write_start
from recipes.ensemble.vectors import Vectors
from tests.tiny_models import save_model

THINGS = ("fleas", "concrete", "bread", "glaciers", "violins", "tulips", "engines", "novels")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two collections: everything about a thing answers a question about it."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("web", "manual"):
        (folder / name / "qrels").mkdir(parents=True)
        corpus = [
            {"_id": f"{t}{i}", "title": "", "text": f"{t} are item {i} of the {name}"} for t in THINGS for i in (1, 2)
        ]
        queries = [{"_id": t, "text": f"what are {t}"} for t in THINGS]
        for file, records in (("corpus", corpus), ("queries", queries)):
            (folder / name / f"{file}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
        judged = "".join(f"{t}\t{t}1\t1\n" for t in THINGS)
        (folder / name / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return folder


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Which collections there are, and what teachers weigh."""
    folder = tmp_path_factory.mktemp("settings")
    numbers = {"train": 5, "development": 2, "documents": 12}
    asked = {"cut": {"words": 5, "characters": 60}, "collections": {"web": numbers, "manual": numbers}}
    (folder / "collections.yaml").write_text(yaml.safe_dump(asked))
    weights = {"web": {"student": 1.0, "minilm": 1.0}, "other": {"student": 1.0}}
    weights |= {"collections_of_web_questions": ["web"], "spread": 3.0}
    (folder / "weights.yaml").write_text(yaml.safe_dump(weights))
    return folder


@pytest.fixture(scope="module")
def made(data, settings, tmp_path_factory):
    """Everything up to the lists."""
    library = pytest.importorskip("sentence_transformers")
    pytest.importorskip("bm25s")
    folder = tmp_path_factory.mktemp("made")
    library.SentenceTransformer(str(save_model(folder / "bert", "bert")), device="cpu").save(str(folder / "minilm"))
    write_start(folder / "start", Path(blockrank_rerank.__file__).parent / "default_model", 0.05, -0.3)
    pools.main(data, folder / "pools", settings / "collections.yaml")
    vectors.main(folder / "pools", folder / "vectors", [f"minilm={folder / 'minilm'}"], ["web"])
    arguments = (folder / "pools", folder / "vectors")
    lists.main(*arguments, folder / "lists", str(folder / "start"), settings / "weights.yaml")
    return folder


def test_pools_keep_development_queries_apart_and_hold_every_answer(made):
    for name in ("web", "manual"):
        folder = made / "pools" / name
        splits = {
            split: {line.split("\t")[0] for line in (folder / "qrels" / f"{split}.tsv").read_text().splitlines()[1:]}
            for split in ("train", "test")
        }
        assert not splits["train"] & splits["test"]
        assert [len(splits[split]) for split in ("train", "test")] == [5, 2]
        texts = {one["_id"]: one["text"] for one in map(json.loads, (folder / "corpus.jsonl").read_text().splitlines())}
        assert len(texts) == 12
        assert {f"{query}1" for queries in splits.values() for query in queries} <= texts.keys()
        assert all(len(text.split()) <= 5 for text in texts.values())


def test_lists_hold_the_answer_and_the_teachers_opinions(made):
    for name in ("web", "manual"):
        examples = list(read_examples(made / "lists" / f"{name}.jsonl"))
        assert len(examples) == 5
        for example in examples:
            thing = example.query.split()[-1]
            assert [one.text for one in example.positives] == [f"{thing} are item 1 of"]
            assert all(one.teacher_score is not None for one in example.candidates)
            # The student is a teacher, and knows which thing is asked for.
            best = max(example.candidates, key=lambda one: one.teacher_score)
            assert name == "web" or best.text.startswith(thing)


def test_the_ensemble_is_measured_before_anything_is_trained(made, settings, capsys):
    ensemble.main(made / "pools", made / "vectors", str(made / "start"), settings / "weights.yaml")
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == ["manual", "web"]
    assert "ensemble" in rows[0]
    assert "minilm" in rows[1]
    assert "minilm" not in rows[0]


def test_variants_of_the_lists_train_a_model_that_ranks(made):
    (made / "lists" / "opposites.jsonl").write_text((made / "lists" / "web.jsonl").read_text())
    variants.main(made / "lists", made / "varied")
    assert sorted(path.name for path in (made / "varied").iterdir()) == ["manual.jsonl", "web.jsonl"]
    trained = finetune(
        FinetuneSettings(
            model=str(made / "start"),
            output=str(made / "trained"),
            data=[str(made / "varied" / "web.jsonl"), str(made / "varied" / "manual.jsonl")],
            steps=2,
            lists_per_step=2,
            documents_per_list=4,
            distillation_weight=4.0,
            distillation_temperature=2.0,
            frozen_layers=3,
            learning_rate=1e-5,
        )
    )
    assert trained is not None
    ranker = BlockRankReranker.from_pretrained(str(made / "trained"))
    assert ranker.rank("what are fleas", ["bread is baked", "fleas are insects"])[0].index == 1


def test_a_second_run_goes_on_where_the_first_one_stopped(made, data, settings):
    before = {path: path.stat().st_mtime_ns for path in (made / "pools").rglob("*.jsonl")}
    pools.main(data, made / "pools", settings / "collections.yaml")
    assert {path: path.stat().st_mtime_ns for path in (made / "pools").rglob("*.jsonl")} == before


def test_a_missing_collection_or_teacher_is_named_before_anything_is_written(data, settings, tmp_path):
    asked = yaml.safe_load((settings / "collections.yaml").read_text())
    asked["collections"]["absent"] = asked["collections"]["web"]
    (tmp_path / "collections.yaml").write_text(yaml.safe_dump(asked))
    with pytest.raises(FileNotFoundError, match="no collection absent in"):
        pools.main(data, tmp_path / "pools", tmp_path / "collections.yaml")
    assert not (tmp_path / "pools").exists()
    with pytest.raises(FileNotFoundError, match=r"no model for arctic in .*config\.json is missing"):
        vectors.main(tmp_path / "pools", tmp_path / "vectors", [f"arctic={tmp_path}"], [])
    with pytest.raises(ValueError, match="encoder must be one of"):
        vectors.main(tmp_path / "pools", tmp_path / "vectors", [f"nobody={tmp_path}"], [])


def test_passages_are_queries_of_lists_without_themselves_and_the_student_teaches(made, tmp_path):
    texts = {f"{t}{i}": f"{t} {i} " + " ".join(f"{t} fact {n}" for n in range(12)) for t in THINGS for i in range(3)}
    texts["short"] = "too short for a query"
    path, names = tmp_path / "vectors.npz", np.array(list(texts))
    table = np.stack([np.eye(len(THINGS) + 1)[min(place // 3, len(THINGS))] for place in range(len(texts))])
    np.savez(path, document=table.astype(np.float32), document_ids=names, query=table[:0], query_ids=names[:0])
    ranker = BlockRankReranker.from_pretrained(str(made / "start"))
    found = list(passages.lists("made", texts, Vectors(path), 5, ranker, 3.0))
    assert len(found) == 5
    for one in found:
        thing = one.query.split()[0]
        low, high = passages.WORDS
        assert low <= len(one.query.split()) <= high
        assert not any(text.startswith(one.query) for text in (candidate.text for candidate in one.candidates))
        assert [positive.text.split()[0] for positive in one.positives] == [thing]
        assert one.positives[0].teacher_score == max(candidate.teacher_score for candidate in one.candidates)


def example(count=8):
    documents = [Candidate("Fleas live for three months. They jump.", 1, 4.0)]
    documents += [Candidate(f"Concrete sets in {i} days. It is grey.", 0, -float(i)) for i in range(1, count)]
    return TrainingExample("how long do fleas live", tuple(documents), "made")


@pytest.mark.parametrize("seed", range(8))
def test_a_stuffed_document_keeps_its_text_and_what_the_teachers_thought_of_it(seed):
    plain, changed = example(), variants.with_stuffed(example(), random.Random(seed))
    pairs = list(zip(plain.candidates, changed.candidates, strict=True))
    stuffed = [(old, new) for old, new in pairs if old.text != new.text]
    assert len(stuffed) == variants.STUFFED_DOCUMENTS
    for old, new in stuffed:
        assert not old.relevant
        assert (new.grade, new.teacher_score) == (old.grade, old.teacher_score)
        assert all(sentence in new.text for sentence in (old.text.split(".")[0], "It is grey."))
        assert "fleas" in new.text


@pytest.mark.parametrize("seed", range(8))
def test_a_surrounded_answer_is_still_the_answer_and_others_are_treated_alike(seed):
    changed = variants.with_surrounded(example(), ["bread " * 100], random.Random(seed))
    assert "Fleas live for three months. They jump." in changed.candidates[0].text
    assert changed.candidates[0].teacher_score == 4.0
    longer = [one for one in changed.candidates if "bread" in one.text]
    assert 1 < len(longer) < len(changed.candidates)
    assert all(10 <= one.text.split().count("bread") <= 80 for one in longer)


def test_variants_are_a_share_of_the_lists_and_the_same_in_every_run():
    many = [TrainingExample(f"query {i}", example().candidates, "made", str(i)) for i in range(200)]
    first, second = ([variants.varied(one, ["filler " * 50]) for one in many] for _ in range(2))
    assert first == second
    kept = sum(one == other for one, other in zip(many, first, strict=True)) / len(many)
    assert kept == pytest.approx(1 - variants.STUFFED_SHARE - variants.SURROUNDED_SHARE, abs=0.1)


def test_the_words_that_check_opposites_are_never_trained_on():
    trained = {query for query, *_ in opposites.cases("train")}
    checked = {query for query, *_ in opposites.cases("development")}
    assert trained
    assert checked
    assert not trained & checked
    assert not any(
        "love" in text or "hate" in text for one in opposites.training_lists() for text in map(str, one.candidates)
    )


def test_lists_of_opposites_put_the_same_above_the_opposite_and_this_above_other_things():
    for one in opposites.training_lists():
        scores = {candidate.teacher_score for candidate in one.candidates}
        assert scores == {opposites.SAME, opposites.OPPOSITE, opposites.UNRELATED}
        assert all(candidate.relevant == (candidate.teacher_score == opposites.SAME) for candidate in one.candidates)
        assert len({candidate.text for candidate in one.candidates}) == opposites.DOCUMENTS
