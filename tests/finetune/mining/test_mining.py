"""Negatives mined from rankings, with a teacher and without."""

import json
import warnings
from importlib.util import find_spec

import numpy as np
import pytest

from blockrank_rerank.finetune.data import Candidate, TrainingExample, read_examples, write_examples
from blockrank_rerank.finetune.mining import is_false_negative, mine_negatives, sentence_transformer
from blockrank_rerank.finetune.mining import mining as mining_module
from blockrank_rerank.finetune.mining.embeddings import EmbeddingTable, nearest
from blockrank_rerank.formats import DataError
from tests.finetune.data_files import DOCUMENTS, write_folder
from tests.tiny_models import save_model

needs_bm25 = pytest.mark.skipif(find_spec("bm25s") is None, reason="bm25s is not installed")

# Angle from the query, in degrees, that the fake model gives to every text; queries lie at 0.
ANGLES = {"d1": 10, "d2": 20, "d3": 30, "d4": 12, "d5": 80, "d6": 15, "d8": 85}


class FakeModel:
    """Embeds documents at given angles from every query, and remembers what it was asked."""

    def __init__(self, angles=ANGLES):
        self._angles = {DOCUMENTS[name]: angle for name, angle in angles.items()}
        self.asked = []

    def __call__(self, texts, role):
        self.asked += [(text, role) for text in texts]
        angles = np.radians([0 if role == "query" else self._angles[text] for text in texts])
        return 7 * np.stack([np.cos(angles), np.sin(angles)], axis=1)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "collection", judgements=[("q1", "d1", 2), ("q2", "d3", 1)])


def ids(example, relevant=False):
    names = {text: name for name, text in reversed(DOCUMENTS.items())}
    return [names[candidate.text] for candidate in example.candidates if candidate.relevant is relevant]


# Retrieval


@needs_bm25
def test_bm25_finds_documents_that_share_words_but_no_judged_one_and_no_copy(folder):
    fleas, concrete = mine_negatives(folder, per_query=2).examples
    assert set(ids(fleas)) == {"d2", "d6"}
    assert ids(concrete)[0] == "d4"
    assert ids(fleas, relevant=True) == ["d1"]
    assert fleas.candidates[0].grade == 2


def test_embeddings_find_the_nearest_documents(folder):
    mining = mine_negatives(folder, method="embeddings", model=FakeModel(), per_query=3)
    assert [ids(example) for example in mining.examples] == [["d4", "d6", "d2"], ["d1", "d4", "d6"]]
    assert mining.report.mined == 6


def test_depth_and_skip_top_bound_the_part_of_the_ranking_that_is_used(folder):
    model = FakeModel()
    mining = mine_negatives(folder, method="embeddings", model=model, depth=4, skip_top=1, per_query=2)
    assert [ids(example) for example in mining.examples] == [["d6", "d2"], ["d4", "d6"]]
    example = mine_negatives(folder, method="embeddings", model=model, depth=4, skip_top=2, per_query=9).examples[0]
    # d4 and d6 were skipped, and are not drawn at random either.
    assert ids(example)[0] == "d2"
    assert set(ids(example)) == {"d2", "d3", "d5", "d8"}


def test_every_text_is_embedded_once_even_if_the_teacher_is_the_searcher(folder):
    model = FakeModel()
    mine_negatives(folder, method="embeddings", model=model, teacher=model, per_query=4)
    assert len(model.asked) == len(set(model.asked)) == 7 + 2


@needs_bm25
def test_with_bm25_the_teacher_reads_only_documents_of_lists(folder):
    model = FakeModel()
    mine_negatives(folder, teacher=model, teacher_margin=2.0, per_query=1, queries_limit=1, depth=3)
    assert 0 < sum(role == "document" for _, role in model.asked) < 7


def test_long_texts_are_embedded_first_and_in_batches():
    sizes = []

    def encode(texts, role):
        sizes.append([len(text) for text in texts])
        return np.ones((len(texts), 2))

    progress = []
    table = EmbeddingTable(encode, "document", lambda *told: progress.append(told), batch_size=2)
    table.add(["a", "bbb", "cc", "bbb"])
    table.add(["a", "dddd"])
    assert sizes == [[3, 2], [1], [4]]
    assert progress == [("embedding documents", *told) for told in ((2, 3), (3, 3), (1, 1))]
    assert table[["dddd", "a"]].shape == (2, 2)


def test_the_nearest_documents_come_first_and_ties_by_number():
    documents = np.eye(3, dtype=np.float32)[[0, 1, 1, 2]]
    queries = np.array([[0.1, 1, 0], [1, 0, 0.5]], np.float32)
    assert [found.tolist() for found in nearest(queries, documents, 3, rows=1)] == [[1, 2, 0], [0, 3, 1]]
    assert [len(found) for found in nearest(queries, documents, 9)] == [4, 4]


@pytest.mark.parametrize("vectors", [np.ones((3, 2)), np.ones(2), np.full((2, 2), np.nan)])
def test_a_model_that_returns_nonsense_is_refused(vectors):
    with pytest.raises(ValueError, match="embedding model"):
        EmbeddingTable(lambda texts, role: vectors, "query").add(["a", "b"])


# The teacher


def test_a_teacher_refuses_what_scores_near_the_best_positive_or_above():
    refused = is_false_negative(np.array([0.9, 0.76, 0.75, 0.1]), np.array([0.3, 0.8]), margin=0.95)
    assert refused.tolist() == [True, True, False, False]
    exactly = is_false_negative(np.array([0.5, 0.25]), np.array([0.5]), margin=0.5)
    assert exactly.tolist() == [True, True]


def test_a_positive_that_the_teacher_scores_below_0_lowers_the_threshold():
    assert is_false_negative(np.array([-0.2, -0.21, -0.23]), np.array([-0.2]), margin=0.9).tolist() == [
        True,
        True,
        False,
    ]


def test_false_negatives_are_left_out_and_counted(folder):
    # cos 30° = 0.866 for the positive of q2: 0.95 of that is 0.823, about 34.6°.
    model = FakeModel()
    mining = mine_negatives(folder, method="embeddings", model=model, teacher=model, per_query=2)
    assert ids(mining.examples[1]) == ["d5", "d8"]
    report = mining.report
    # q1 keeps 20° (0.940 > 0.936 refused), so only those beyond 20.7°: d3, d5, d8.
    assert ids(mining.examples[0]) == ["d3", "d5"]
    assert (report.considered, report.refused_by_teacher) == (12, 3 + 4)
    assert (report.queries, report.positives, report.negatives, report.mined, report.random) == (2, 2, 4, 4, 0)
    assert report.positives_below_best_negative == 1


def test_every_document_gets_the_teachers_score(folder):
    model = FakeModel()
    [example] = mine_negatives(folder, method="embeddings", model=model, teacher=model, queries_limit=1).examples
    names = {text: name for name, text in reversed(DOCUMENTS.items())}
    for candidate in example.candidates:
        expected = np.cos(np.radians(ANGLES[names[candidate.text]]))
        assert candidate.teacher_score == pytest.approx(expected, abs=1e-5)


@needs_bm25
def test_queries_whose_negatives_are_all_refused_get_random_ones_with_scores(folder):
    angles = dict.fromkeys(ANGLES, 60) | {"d1": 40, "d2": 5, "d6": 6, "d4": 5, "d3": 40}
    mining = mine_negatives(folder, teacher=FakeModel(angles), per_query=2)
    for example in mining.examples:
        assert set(ids(example)) == {"d5", "d8"}
        assert all(candidate.teacher_score is not None for candidate in example.candidates)
    assert mining.report.queries_without_mined == 2
    assert mining.report.random == 4


def test_random_negatives_pass_the_teacher_as_well(folder):
    angles = dict.fromkeys(ANGLES, 5) | {"d1": 40, "d3": 40}
    mining = mine_negatives(folder, method="given", teacher=FakeModel(angles), per_query=3)
    assert [ids(example) for example in mining.examples] == [[], []]
    assert (mining.report.queries_short, mining.report.random) == (2, 0)


def test_documents_judged_irrelevant_stay_whatever_the_teacher_says(tmp_path):
    folder = write_folder(tmp_path / "judged", judgements=[("q1", "d1", 1), ("q1", "d4", 0)])
    model = FakeModel()
    [example] = mine_negatives(folder, method="embeddings", model=model, teacher=model, per_query=2).examples
    assert ids(example) == ["d4", "d3"]


def test_negatives_that_rows_have_are_filtered_and_scored():
    texts = {name: DOCUMENTS[name] for name in ("d1", "d4", "d5", "d8")}
    candidates = [Candidate(texts["d1"], 1.0), *(Candidate(texts[name], 0.0) for name in ("d4", "d5"))]
    examples = [
        TrainingExample("a", tuple(candidates), "x:1", "a"),
        TrainingExample("b", (Candidate(texts["d8"], 1.0),), "x:2"),
    ]
    mining = mine_negatives(examples, method="given", teacher=FakeModel(), per_query=1)
    assert ids(mining.examples[0]) == ["d5"]
    # The second query has none: both documents drawn for it score above its positive at 85°.
    assert (mining.report.given, mining.report.considered, mining.report.refused_by_teacher) == (1, 4, 3)
    assert [example.query_id for example in mining.examples] == ["a", None]


def scored(query, *documents):
    """An example whose first document is relevant; a document is its id, or its id and score."""
    pairs = [(found, None) if isinstance(found, str) else found for found in documents]
    candidates = [Candidate(DOCUMENTS[name], float(not index), score) for index, (name, score) in enumerate(pairs)]
    return TrainingExample(query, tuple(candidates), "x:1")


def test_scores_that_the_data_has_stay_where_every_document_of_a_list_has_one():
    examples = [
        scored("a", ("d1", 0.9), ("d4", 0.2), ("d5", 0.1)),
        scored("b", ("d3", 0.8), ("d2", 0.3)),
        scored("c", ("d6", 0.7), ("d8", None)),
        scored("d", "d6", "d8"),
    ]
    mining = mine_negatives(examples, method="given", per_query=1)
    assert [[found.teacher_score for found in example.candidates] for example in mining.examples] == [
        [0.9, 0.2],
        [0.8, 0.3],
        [None, None],
        [None, None],
    ]
    assert mining.report.queries_without_their_scores == 1
    # Two negatives: a random document, which nobody has scored, joins the second list.
    mining = mine_negatives(examples[:2], method="given", per_query=2)
    assert [example.candidates[0].teacher_score for example in mining.examples] == [0.9, None]
    assert mining.report.queries_without_their_scores == 1


def test_a_teachers_scores_replace_those_of_the_data():
    mining = mine_negatives([scored("a", ("d1", 5.0), ("d8", 4.0))], method="given", teacher=FakeModel(), per_query=1)
    assert [found.teacher_score for found in mining.examples[0].candidates] == pytest.approx(
        [np.cos(np.radians(10)), np.cos(np.radians(85))], abs=1e-5
    )
    assert mining.report.queries_without_their_scores == 0


# What is left out


@pytest.mark.parametrize("options", [{}, {"teacher": FakeModel(dict.fromkeys(ANGLES, 30)), "teacher_margin": 2.0}])
@pytest.mark.parametrize("method", ["random", "embeddings", "given", pytest.param("bm25", marks=needs_bm25)])
def test_an_answer_in_one_row_is_no_negative_in_another_row_of_the_same_query(method, options):
    examples = [scored("fleas live", "d1", "d3"), scored("fleas live", "d2", "d1"), scored("bread", "d5", "d4")]
    model = FakeModel() if method == "embeddings" else None
    first, second, other = mine_negatives(examples, method=method, model=model, per_query=9, **options).examples
    assert not {"d1", "d2"} & {*ids(first), *ids(second)}
    assert [ids(example, relevant=True) for example in (first, second, other)] == [["d1"], ["d2"], ["d5"]]
    if method != "bm25":
        assert {"d1", "d2"} & set(ids(other))


def test_answers_are_shared_with_rows_that_were_not_drawn():
    examples = [scored("fleas", "d1"), scored("fleas", "d2"), scored("bread", "d5")]
    for seed in range(9):
        [example] = mine_negatives(examples, method="random", queries_limit=1, per_query=9, seed=seed).examples
        if example.query == "fleas":
            assert ids(example) == ["d5"]


def test_queries_of_a_folder_with_one_text_share_their_answers(tmp_path):
    queries = {"q1": "fleas", "q2": "fleas"}
    judged = write_folder(tmp_path / "same", queries=queries, judgements=[("q1", "d1", 1), ("q2", "d2", 1)])
    for example in mine_negatives(judged, method="random", per_query=9).examples:
        assert set(ids(example)) == {"d3", "d4", "d5", "d6", "d8"}


def test_excluded_documents_and_their_copies_occur_nowhere(folder):
    model = FakeModel()
    mining = mine_negatives(folder, method="embeddings", model=model, exclude_documents={"d7", "d4"}, per_query=9)
    # d7 is a copy of d1, the only positive of q1.
    assert [example.query_id for example in mining.examples] == ["q2"]
    assert set(ids(mining.examples[0])) == {"d2", "d5", "d6", "d8"}


def test_excluded_queries_are_left_out(folder):
    mining = mine_negatives(folder, method="random", exclude_queries={"q1"}, per_query=2)
    assert [example.query_id for example in mining.examples] == ["q2"]


def test_what_is_excluded_is_counted(folder):
    report = mine_negatives(folder, method="random", exclude_documents={"d7", "x"}, per_query=2).report
    assert (report.queries_excluded, report.documents_excluded) == (1, 1)
    report = mine_negatives(folder, method="random", exclude_queries={"q2"}, queries_limit=1, per_query=2).report
    assert (report.queries_excluded, report.documents_excluded) == (1, 0)


@pytest.mark.parametrize("name", ["exclude_queries", "exclude_documents"])
def test_ids_of_another_collection_are_told(folder, name):
    with pytest.warns(UserWarning, match=f"none of the 2 ids of {name} is in the data, such as 'x'"):
        mine_negatives(folder, method="random", per_query=2, **{name: ["y", "x"]})


def rows(*query_ids):
    """Examples whose queries have these ids; there are those of no document."""
    candidates = (Candidate("pos", 1.0), Candidate("neg", 0.0))
    return [TrainingExample(f"question {n}", candidates, f"a:{n}", name) for n, name in enumerate(query_ids)]


def test_of_rows_the_queries_with_these_ids_are_left_out_and_none_by_its_place():
    mining = mine_negatives(rows("b", None, "q0"), method="given", exclude_queries={"q0", "q1"})
    assert [example.query for example in mining.examples] == ["question 0", "question 1"]


@pytest.mark.parametrize("excluded", [{"exclude_queries": ["q0"]}, {"exclude_documents": ["d0"]}])
def test_ids_that_rows_do_not_have_are_refused(excluded):
    with pytest.raises(ValueError, match=rf"{next(iter(excluded))} needs .*got rows.*remove"):
        mine_negatives(rows(None, None), method="given", **excluded)


def test_excluding_everything_is_refused(folder):
    with pytest.raises(ValueError, match="no query is left"):
        mine_negatives(folder, method="random", exclude_queries={"q1", "q2"})


def test_random_mining_depends_on_the_seed_and_the_query_alone(folder):
    def drawn(**options):
        return {
            e.query_id: e.candidates for e in mine_negatives(folder, method="random", per_query=3, **options).examples
        }

    everything = drawn()
    assert everything == drawn()
    assert drawn(queries_limit=1).items() <= everything.items()
    assert any(drawn(seed=seed) != everything for seed in range(1, 9))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "hybrid"}, "method must be one of bm25, embeddings, random, given, got 'hybrid'"),
        ({"method": "embeddings"}, "model is needed for method 'embeddings'"),
        ({"model": "x"}, "for no other"),
        ({"depth": 0}, "depth and per_query must be at least 1"),
        ({"depth": 5, "skip_top": 5}, r"skip_top in 0\.\.4"),
        ({"per_query": 0}, "got depth 100, per_query 0"),
        ({"teacher_margin": float("nan")}, "teacher_margin must be above 0"),
        ({"teacher_margin": float("inf")}, "teacher_margin must be above 0 and below 100, got inf"),
        ({"teacher_margin": 0.9}, "teacher_margin must come with a teacher, got 0.9 without one; leave it out"),
        ({"teacher_margin": "0.9"}, "teacher_margin must be above 0 and below 100, got '0.9'"),
        ({"depth": 10**12}, "depth must be a whole number, at most 1,000,000, got 1000000000000"),
        ({"depth": float("nan")}, "depth must be a whole number, at most 1,000,000, got nan"),
        ({"depth": 10.0}, "depth must be a whole number"),
        ({"depth": "10"}, "depth must be a whole number"),
        ({"depth": -1}, "depth and per_query must be at least 1"),
        ({"per_query": 10**12}, "per_query must be a whole number, at most"),
        ({"per_query": 10**9000}, "per_query must be a whole number, at most .* got an integer of 29,898 bits"),
        ({"per_query": True}, "per_query must be a whole number"),
        ({"skip_top": float("nan")}, "skip_top must be a whole number"),
        ({"skip_top": -1}, r"skip_top in 0\.\."),
        ({"batch_size": 0}, r"batch_size must be a whole number, in 1\.\.65,536, got 0"),
        ({"batch_size": -3}, "batch_size must be a whole number"),
        ({"batch_size": 10**12}, "batch_size must be a whole number"),
        ({"batch_size": float("nan")}, "batch_size must be a whole number"),
        ({"queries_limit": 0}, "queries_limit must be a whole number"),
        ({"queries_limit": 10**12}, "queries_limit must be a whole number"),
        ({"device": "gpu"}, "device"),
        ({"dtype": "fp99"}, "dtype"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_before_data_is_read(folder, options, message):
    for source in (folder, folder / "absent"):
        with pytest.raises(ValueError, match=message):
            mine_negatives(source, **options)


def test_an_embedding_model_refuses_a_batch_size_before_it_is_loaded():
    with pytest.raises(ValueError, match="batch_size must be a whole number"):
        sentence_transformer("/absent", batch_size=0)


def test_integers_of_numpy_are_numbers(folder):
    assert mine_negatives(folder, method="random", depth=np.int64(5), per_query=np.int32(2)).report.negatives


def test_mined_examples_are_training_data(folder, tmp_path):
    model = FakeModel()
    examples = mine_negatives(folder, method="embeddings", model=model, teacher=model, per_query=3).examples
    write_examples(tmp_path / "mined.jsonl", examples)
    assert [example.candidates for example in read_examples(tmp_path / "mined.jsonl")] == [
        e.candidates for e in examples
    ]


def test_progress_is_told_for_every_stage(folder):
    told = {}
    model = FakeModel()
    mine_negatives(
        folder,
        method="embeddings",
        model=model,
        teacher=model,
        on_progress=lambda stage, done, total: told.update({stage: (done, total)}),
    )
    assert told == {"embedding queries": (2, 2), "embedding documents": (7, 7), "mining": (2, 2)}


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    """A random sentence-transformers model."""
    library = pytest.importorskip("sentence_transformers")
    bert = save_model(tmp_path_factory.mktemp("bert"), "bert")
    folder = tmp_path_factory.mktemp("embedder")
    library.SentenceTransformer(str(bert), device="cpu").save(str(folder))  # with mean pooling added
    return folder


def test_a_real_embedding_model_mines_and_scores(folder, embedder):
    mined = mine_negatives(folder, method="embeddings", model=str(embedder), teacher=str(embedder), per_query=3)
    scores = [candidate.teacher_score for example in mined.examples for candidate in example.candidates]
    assert scores
    assert all(-1 <= score <= 1 for score in scores)
    assert len(set(scores)) > 1


@needs_bm25
def test_several_methods_give_their_best_in_turns(folder):
    both = mine_negatives(folder, method=["embeddings", "bm25"], model=FakeModel(), per_query=5)
    dense = mine_negatives(folder, method="embeddings", model=FakeModel(), per_query=5)
    lexical = mine_negatives(folder, method="bm25", depth=3, per_query=5)
    for joined, near, shared in zip(both.examples, dense.examples, lexical.examples, strict=True):
        assert ids(joined)[0] == ids(near)[0]
        assert ids(joined)[1] == next(name for name in ids(shared) if name != ids(near)[0])
        assert len(ids(joined)) == len(set(ids(joined)))


@pytest.mark.parametrize(
    ("methods", "complaint"),
    [
        (["bm25", "dense"], "method must be one of bm25, embeddings, random, given, got 'dense'"),
        (["bm25", "bm25"], r"none twice, got \['bm25', 'bm25'\]"),
        ([], "must name at least one"),
        (["bm25", "embeddings"], "model is needed for method 'embeddings'"),
    ],
)
def test_methods_that_cannot_be_meant_are_refused(folder, methods, complaint):
    with pytest.raises(ValueError, match=complaint):
        mine_negatives(folder, method=methods)


def cosine(first, second):
    return float((first @ second.T / np.linalg.norm(first) / np.linalg.norm(second)).item())


def test_pooling_and_prefixes_change_what_an_embedding_model_sees(embedder):
    def embed(text, role, **settings):
        return sentence_transformer(str(embedder), device="cpu", **settings)([text], role)

    plain = embed("fleas", "query")
    assert cosine(plain, embed("fleas", "query", pooling="mean")) == pytest.approx(1, abs=1e-5)
    assert cosine(plain, embed("fleas", "query", pooling="cls")) < 0.9999
    assert cosine(embed("find fleas", "query"), embed("fleas", "query", query_prefix="find ")) == pytest.approx(
        1, abs=1e-5
    )
    assert cosine(plain, embed("fleas", "document", query_prefix="find ")) == pytest.approx(1, abs=1e-5)
    assert cosine(embed("on fleas", "document"), embed("fleas", "document", document_prefix="on ")) == pytest.approx(
        1, abs=1e-5
    )


@pytest.mark.parametrize("setting", ["pooling", "query_prefix", "document_prefix"])
def test_settings_of_embedding_models_are_refused_where_none_is_given_by_name(folder, setting):
    message = f"{setting} must come with an embedding model given by name"
    with pytest.raises(ValueError, match=message):
        mine_negatives(folder, **{setting: "cls"})
    with pytest.raises(ValueError, match=message):
        mine_negatives(folder, teacher=FakeModel(), **{setting: "cls"})


def test_prefixes_that_two_models_share_are_told(folder, monkeypatch):
    monkeypatch.setattr(mining_module, "sentence_transformer", lambda name, **settings: FakeModel())
    asked = {"method": "embeddings", "model": "some/searcher", "query_prefix": "query: "}
    with pytest.warns(UserWarning, match="query_prefix is used for 'some/searcher' and 'a/teacher'"):
        mine_negatives(folder, teacher="a/teacher", **asked)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mine_negatives(folder, teacher="some/searcher", **asked)


def test_a_pooling_that_there_is_not_is_refused_before_anything_is_loaded(folder):
    with pytest.raises(ValueError, match="pooling must be one of mean, cls, got 'max'"):
        mine_negatives(folder, method="embeddings", model="no/such", pooling="max")


def test_an_embedding_model_that_cannot_be_read_is_named(folder, tmp_path):
    pytest.importorskip("sentence_transformers")
    with pytest.raises((FileNotFoundError, ValueError), match=f"cannot read the embeddings of model '{tmp_path}'"):
        mine_negatives(folder, teacher=str(tmp_path))


# Queries that are documents of the collection


def write_collection(folder, documents, queries, qrels):
    (folder / "qrels").mkdir(parents=True)
    for name, records in (("corpus", documents), ("queries", queries)):
        lines = (json.dumps({"_id": key} | record) + "\n" for key, record in records.items())
        (folder / f"{name}.jsonl").write_text("".join(lines))
    (folder / "qrels" / "train.tsv").write_text(qrels)
    return folder


@pytest.mark.parametrize("method", [pytest.param("bm25", marks=needs_bm25), "random"])
@pytest.mark.parametrize("title", ["", "Zoning"])
@pytest.mark.parametrize("judged", ["", "a1\ta1\t0\n"])
def test_a_query_is_never_its_own_negative(tmp_path, method, title, judged):
    query = "zoning laws lower rents"
    documents = {"copy": {"text": query}} if not title else {}
    documents |= {"a1": {"title": title, "text": query}, "d1": {"text": "rents fall"}, "d2": {"text": "zoning grows"}}
    folder = write_collection(tmp_path / "c", documents, {"a1": {"text": query}}, "a1\td1\t1\n" + judged)
    mining = mine_negatives(folder, method=method, per_query=5)
    assert [candidate.text for candidate in mining.examples[0].negatives] == ["zoning grows"]
    assert mining.report.queries_in_corpus == 1


def test_another_text_under_the_id_of_a_query_is_mined(tmp_path):
    documents = {"1": {"text": "a story about fleas"}, "2": {"text": "fleas"}}
    folder = write_collection(tmp_path / "c", documents, {"1": {"text": "about fleas"}}, "1\t2\t1\n")
    mining = mine_negatives(folder, method="random", per_query=5)
    assert [candidate.text for candidate in mining.examples[0].negatives] == ["a story about fleas"]
    assert mining.report.queries_in_corpus == 0


@needs_bm25
def test_mining_where_bm25_finds_nothing_at_all_is_refused_with_what_to_do(tmp_path):
    documents = {"d1": {"text": "alpha"}, "d2": {"text": "beta"}}
    folder = write_collection(tmp_path / "c", documents, {"q": {"text": "gamma"}}, "q\td1\t1\n")
    with pytest.raises(DataError, match=r"finds no document for any of the 1 queries.*random \(--method\)"):
        mine_negatives(folder)
    assert mine_negatives(folder, method="random").report.negatives == 1


@needs_bm25
def test_bm25_mines_in_scripts_without_spaces(tmp_path):
    documents = {"d1": {"text": "重置路由器"}, "d2": {"text": "路由器转发"}, "d3": {"text": "花展五月"}}
    folder = write_collection(tmp_path / "c", documents, {"q": {"text": "路由器密码"}}, "q\td1\t1\n")
    mining = mine_negatives(folder, per_query=1)
    assert [candidate.text for candidate in mining.examples[0].negatives] == ["路由器转发"]
    assert mining.report.mined == 1
