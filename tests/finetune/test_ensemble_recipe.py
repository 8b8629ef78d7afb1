"""The recipe of the default model, from BEIR folders to a trained model, on collections made here."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.finetune import FinetuneSettings, finetune, training_run
from blockrank_rerank.finetune.data import Candidate, TrainingExample, read_examples
from recipes.ensemble import ensemble, lists, opposites, passages, pools, run, variants, vectors
from recipes.ensemble.candidates import Pool
from recipes.ensemble.ensemble import Ensemble, raw_scores
from recipes.ensemble.settings import HERE, EnsembleSettings
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
    """Which collections there are, what teachers weigh, and how a model is trained."""
    folder = tmp_path_factory.mktemp("settings")
    numbers = {"train": 5, "development": 2, "documents": 12}
    collections = {"web": numbers, "manual": numbers}
    weights = {"web": {"student": 1.0, "minilm": 1.0}, "other": {"student": 1.0}}
    weights |= {"collections_of_web_questions": ["web"]}
    paths = {"train": "varied/web varied/manual lists/opposites", "calibrate": "lists/web"}
    for name, of in paths.items():
        data = [{"path": f"build/{one}.jsonl", "weight": 1.0} for one in of.split()]
        weights_of = {"contrastive_weight": 0.0, "abstention_weight": 1.0, "empty_share": 0.5}
        first = {"model": "build/start", "output": "build/trained"}
        second = {"model": "build/trained", "output": "build/calibrated"} | weights_of
        shared = {"steps": 2, "save_every": 1, "lists_per_step": 2, "documents_per_list": 4, "device": "cpu"}
        write(folder, name, shared | (first if name == "train" else second) | {"data": data})
    write(folder, "collections", {"cut": {"words": 5, "characters": 60}, "collections": collections})
    write(folder, "ensemble", weights)
    return folder


def write(folder, name, settings):
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    library = pytest.importorskip("sentence_transformers")
    folder = tmp_path_factory.mktemp("embedder")
    library.SentenceTransformer(str(save_model(folder / "bert", "bert")), device="cpu").save(str(folder / "minilm"))
    return folder / "minilm"


@pytest.fixture(scope="module")
def made(data, settings, embedder, tmp_path_factory):
    """Everything up to the lists."""
    pytest.importorskip("bm25s")
    folder = tmp_path_factory.mktemp("made")
    write_start(folder / "start", "default", 0.05, -0.3)
    pools.main(data, folder / "pools", settings)
    vectors.main(folder / "pools", folder / "vectors", [f"minilm={embedder}"], settings)
    lists.main(folder / "pools", folder / "vectors", folder / "lists", str(folder / "start"), settings)
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


def test_teachers_change_the_order_and_not_how_far_scores_lie_apart(made, settings):
    pool = Pool.read(made / "pools" / "web", "train", made / "vectors", ["minilm"])
    teachers = Ensemble(pool, BlockRankReranker.from_pretrained(str(made / "start")), EnsembleSettings.read(settings))
    query, documents = next(iter(pool.collection.queries)), list(pool.texts)[:6]
    opinions = teachers.opinions(query, documents)
    assert teachers.total(opinions).std() == pytest.approx(opinions["student"].std(), rel=1e-4)
    alone = opinions | {"minilm": opinions["student"]}
    assert teachers.total(alone) == pytest.approx(opinions["student"] - opinions["student"].mean(), abs=1e-4)


def test_the_ensemble_is_measured_before_anything_is_trained(made, settings, capsys):
    places = (made / "pools", made / "vectors")
    ensemble.main(*places, str(made / "start"), settings)
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == ["manual", "web"]
    assert "ensemble" in rows[0]
    assert "minilm" in rows[1]
    assert "minilm" not in rows[0]
    # Those who write lists are shown the same.
    lists.main(*places, made / "again", str(made / "start"), settings)
    assert capsys.readouterr().out.splitlines() == rows


def test_each_encoder_reads_the_pools_whose_ensemble_it_is_in_and_no_others(made):
    assert [str(path.relative_to(made / "vectors")) for path in (made / "vectors").rglob("*.npz")] == ["minilm/web.npz"]


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
    pools.main(data, made / "pools", settings)
    assert {path: path.stat().st_mtime_ns for path in (made / "pools").rglob("*.jsonl")} == before


def test_vectors_that_are_missing_are_named_before_the_student_is_loaded(made, settings, tmp_path):
    message = r"no vectors in .*nowhere by minilm of web"
    for step in (ensemble.main, lambda *places: lists.main(*places[:2], tmp_path / "lists", *places[2:])):
        with pytest.raises(FileNotFoundError, match=message):
            step(made / "pools", tmp_path / "nowhere", "./no/student", settings)
    assert not list(tmp_path.iterdir())


# All steps in one command


def asked(data, embedder, settings, /, **changes):
    given = {"base": "default", "student": None, "temperature": None, "length_weight": None}
    return run.Asked(**given | {"data": data, "encoder": [f"minilm={embedder}"], "settings": settings} | changes)


def test_one_command_makes_a_calibrated_model_of_an_encoder_and_goes_on_where_it_was(
    data, settings, embedder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    whole = asked(data, embedder, settings, base=str(embedder), student="default", temperature=0.02)
    run.main(whole)
    told = capsys.readouterr().out
    assert re.search(r"^web  student .* minilm .* ensemble ", told, re.MULTILINE)
    steps = re.findall(r"^(\S+): \d+\.\d minutes$", told, re.MULTILINE)
    assert steps == ["start", "pools", "vectors", "lists", "opposites", "variants", "train.yaml", "calibrate.yaml"]
    head = load_file("build/start/scoring_head.safetensors")
    assert [float(head[name]) for name in ("log_temperature", "length_weight")] == pytest.approx([math.log(0.02), -0.3])
    assert BlockRankReranker.from_pretrained("./build/calibrated").rank("fleas", ["bread"])[0].probability is not None
    kept = {path: path.stat().st_mtime_ns for path in Path("build").rglob("*.safetensors")}
    # The second training is cut off, and goes on.
    shutil.rmtree("build/calibrated")
    Path("build/calibrated.training/finished").unlink(missing_ok=True)
    resumed = []
    monkeypatch.setattr(training_run, "finetune", lambda settings, resume: resumed.append((settings.output, resume)))
    run.main(whole)
    assert resumed == [(str(tmp_path / "build/calibrated"), True)]
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items() if path.exists())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": "./nowhere"}, "nowhere"),
        ({"student": "./nobody"}, "nobody"),
        ({"encoder": []}, "no model for minilm, by .*ensemble.yaml: give --encoder NAME=FOLDER"),
        ({"encoder": ["minilm"]}, "encoder must be NAME=FOLDER"),
        ({"encoder": ["nobody=x"]}, "with one of minilm, arctic, e5, got 'nobody=x'"),
        ({"encoder": ["minilm=./nowhere"]}, "nowhere"),
        ({"data": Path("nowhere")}, "no collection manual, web in nowhere"),
        ({"settings": Path("nowhere")}, "no folder of settings nowhere"),
    ],
)
def test_what_is_missing_is_named_before_anything_is_computed(
    data, settings, embedder, tmp_path, monkeypatch, changes, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=message):
        run.main(asked(data, embedder, settings, **changes))
    assert not list(tmp_path.iterdir())


def test_the_command_names_every_package_that_is_missing(data, settings, tmp_path):
    words = ["run", str(data), "--encoder", "minilm=./nowhere", "--settings", str(settings)]
    script = f"import runpy, sys; sys.argv = {words}; sys.modules |= dict.fromkeys({run.PACKAGES}); "
    script += "runpy.run_module('recipes.ensemble.run', run_name='__main__')"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    *packages, model = done.stderr.splitlines()[-len(run.PACKAGES) - 1 :]
    assert all(f"the recipe needs {name}" in line for name, line in zip(run.PACKAGES, packages, strict=True))
    assert "pip install '.[train]'" in packages[0]
    assert "nowhere" in model
    assert done.returncode == 1
    assert not list(tmp_path.iterdir())


def test_all_that_is_missing_is_named_at_once_lists_included(data, settings, embedder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = shutil.copytree(settings, tmp_path / "settings")
    write(other, "train", {"model": "build/start", "output": "build/trained", "data": ["build/varied/absent.jsonl"]})
    with pytest.raises(FileNotFoundError) as error:
        run.main(asked(data, embedder, other, base="./nowhere"))
    lines = zip(("nowhere", "absent.jsonl"), str(error.value).splitlines(), strict=True)
    assert all(name in line for name, line in lines)
    assert not Path("build").exists()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("collections", {"cut": None}, "must hold cut with characters and words"),
        ("collections", {"collections": {"web": {"train": 5}}}, "each with development, documents, train, got"),
        ("ensemble", {"spraed": 3.0}, "unexpected keyword argument 'spraed'"),
        ("train", {"stepss": 3}, "stepss"),
    ],
)
def test_settings_that_are_wrong_are_told_once_with_their_file(
    data, settings, embedder, tmp_path, monkeypatch, name, changes, message
):
    monkeypatch.chdir(tmp_path)
    other = shutil.copytree(settings, tmp_path / "settings")
    write(other, name, yaml.safe_load((other / f"{name}.yaml").read_text()) | changes)
    with pytest.raises(FileNotFoundError, match=message) as error:
        run.main(asked(data, embedder, other))
    assert f"{name}.yaml" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_the_recipes_own_settings_train_on_what_they_make():
    for name in run.TRAININGS:
        run._check_training(HERE, name)


def test_a_start_keeps_the_numbers_that_are_not_given(tmp_path):
    write_start(tmp_path / "as it is", "default")
    write_start(tmp_path / "shorter", "default", length_weight=-0.3)
    whole, changed = (load_file(tmp_path / name / "scoring_head.safetensors") for name in ("as it is", "shorter"))
    assert {name for name in whole if not torch.equal(whole[name], changed[name])} == {"length_weight"}
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith("partial")] == []


def test_passages_are_queries_of_lists_without_themselves_and_the_student_teaches(made, tmp_path):
    texts = {f"{t}{i}": f"{t} {i} " + " ".join(f"{t} fact {n}" for n in range(12)) for t in THINGS for i in range(3)}
    texts["short"] = "too short for a query"
    path, names = tmp_path / "vectors.npz", np.array(list(texts))
    table = np.stack([np.eye(len(THINGS) + 1)[min(place // 3, len(THINGS))] for place in range(len(texts))])
    np.savez(path, document=table.astype(np.float32), document_ids=names, query=table[:0], query_ids=names[:0])
    ranker = BlockRankReranker.from_pretrained(str(made / "start"))
    found = list(passages.lists("made", texts, Vectors(path), 5, ranker))
    assert len(found) == 5
    for one in found:
        thing = one.query.split()[0]
        low, high = passages.WORDS
        assert low <= len(one.query.split()) <= high
        assert not any(text.startswith(one.query) for text in (candidate.text for candidate in one.candidates))
        assert [positive.text.split()[0] for positive in one.positives] == [thing]
        assert one.positives[0].teacher_score == max(candidate.teacher_score for candidate in one.candidates)
        # Nothing but its own scores, so that a training on these lists alone changes nothing.
        own = raw_scores(ranker, one.query, [candidate.text for candidate in one.candidates])
        teacher = np.array([candidate.teacher_score for candidate in one.candidates])
        assert teacher == pytest.approx(own - own.mean(), abs=1e-3)


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
