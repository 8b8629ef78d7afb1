"""Documents of a store are found by their ids: what was prepared last, until it is deleted."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import os
import pickle
import re
import shutil
import signal
import threading
import warnings
from dataclasses import asdict, replace

import pytest
import torch

from blockrank_rerank import BlockRankReranker, StoredDocument, StoredDocuments, UnknownIdsError
from blockrank_rerank.cli.app import main
from blockrank_rerank.engine import fingerprint as fingerprints
from blockrank_rerank.engine import store_preparation
from blockrank_rerank.engine.fingerprint import earlier_fingerprint
from blockrank_rerank.states import stored_documents
from blockrank_rerank.states.digest import tensor_bytes
from blockrank_rerank.states.document_files import MAX_ID_CHARACTERS, documents_content, next_documents_path
from blockrank_rerank.states.group_files import text_digest
from blockrank_rerank.states.manifest import EARLIER_VERSIONS, FORMAT_VERSION
from blockrank_rerank.states.store import StateStore
from tests.states.test_prepared import QUERIES, assert_same, save_ranker
from tests.tiny_models import BERT_CONFIG

LIVER = {"id": "liver", "title": "the liver", "text": " stores sugar "}
DOCUMENTS = [LIVER, {"_id": 7, "text": "aspirin thins the blood"}, "sugar", {"id": "empty", "text": ""}]
IDS = ["liver", "7", "empty"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_ranker(tmp_path_factory.mktemp("bert"), "bert", BERT_CONFIG)


@pytest.fixture(scope="module")
def ranker(model):
    return BlockRankReranker.from_pretrained(model, dtype="float32")


@pytest.fixture(scope="module")
def prepared(ranker, tmp_path_factory):
    """A store that no test writes to."""
    ranker.prepare_store(folder := tmp_path_factory.mktemp("store"), DOCUMENTS)
    return folder


@pytest.fixture
def kept(tmp_path):
    """Documents of a store without states."""
    return StoredDocuments(StateStore(tmp_path / "store", "print", torch.float32).folder)


def put(documents, *texts):
    """Keep documents, each the text of its id; every text is one block."""
    stored = [StoredDocument(*text.split(": ")) for text in texts]
    return documents.put(stored, [text_digest(document.text) for document in stored])


def read_anew(documents):
    return {document.id: document.text for document in StoredDocuments(documents.folder)}


def test_documents_come_back_by_id_as_they_were_given_and_in_the_order_of_the_ids(prepared):
    documents = StoredDocuments(prepared)
    assert documents.get(["7", "liver", 7, "empty"]) == [
        StoredDocument("7", "aspirin thins the blood"),
        StoredDocument("liver", " stores sugar ", "the liver"),
        StoredDocument("7", "aspirin thins the blood"),
        StoredDocument("empty", ""),
    ]
    assert (documents.ids, len(documents)) == (IDS, 4)
    assert [document.text for document in documents if document.id is None] == ["sugar"]
    assert ("liver" in documents, "sugar" in documents, 7 in documents, None in documents) == (True, False, True, False)
    assert documents.get([]) == []


def test_documents_of_ids_rank_by_the_states_of_the_store(ranker, model, prepared, monkeypatch):
    stored = BlockRankReranker.from_pretrained(model, dtype="float32", store=prepared)
    monkeypatch.setattr(stored.engine, "document_states", lambda texts, *rest: iter(() if not texts else 1 / 0))
    got = stored.rank(QUERIES[1], StoredDocuments(prepared).get(IDS))
    assert_same(got, ranker.rank(QUERIES[1], [LIVER, "aspirin thins the blood", ""]))
    assert [document.id for document in got] == [IDS[document.index] for document in got]


def test_an_id_that_comes_again_with_another_text_names_that_text_alone(ranker, tmp_path):
    ranker.prepare_store(tmp_path, DOCUMENTS)
    reader = StoredDocuments(tmp_path)
    assert reader.get(["liver"])[0].title == "the liver"
    done = ranker.prepare_store(tmp_path, [{"id": "liver", "text": "an artery"}, "sugar", "blood", DOCUMENTS[1]])
    assert (done.added, done.replaced, done.unchanged, done.documents, done.unused) == (1, 1, 2, 5, 1)
    assert StoredDocuments(tmp_path).get(["liver"]) == [StoredDocument("liver", "an artery")]
    assert reader.get(["liver"])[0].text == "an artery"  # though it was open before
    done = ranker.prepare_store(tmp_path, [LIVER])
    assert (done.prepared, done.found, done.replaced) == (0, 1, 1)  # its states had stayed
    assert done.unused == 1


def test_a_title_belongs_to_the_document_of_an_id(kept):
    assert kept.put([StoredDocument("a", "x", "t")], [text_digest("t x")]) == (1, 0, 0)
    assert kept.put([StoredDocument("a", "x", "t")], [text_digest("t x")]) == (0, 0, 1)
    assert kept.put([StoredDocument("a", "t x")], [text_digest("t x")]) == (0, 1, 0)
    assert kept.unused_blocks() == 0


def test_documents_without_an_id_are_kept_once_by_what_the_model_reads_of_them(kept):
    for count, document in enumerate([StoredDocument(None, "t x"), StoredDocument(None, "x", "t")]):
        assert kept.put([document], [text_digest("t x")]) == (1 - count, 0, count)
    assert [*kept] == [StoredDocument(None, "t x")]


def test_deleted_ids_are_gone_and_come_back_without_being_read_again(ranker, tmp_path):
    ranker.prepare_store(tmp_path, DOCUMENTS)
    documents, other = StoredDocuments(tmp_path), StoredDocuments(tmp_path)
    assert other.get(["liver"])
    assert documents.delete(["liver", 7, "7"]) == 2
    assert (documents.ids, len(documents), documents.unused_blocks()) == (["empty"], 2, 2)
    for reader in (documents, other, StoredDocuments(tmp_path)):
        with pytest.raises(UnknownIdsError, match="2 of 3 ids"):
            reader.get(["liver", "empty", "7"])
    done = ranker.prepare_store(tmp_path, DOCUMENTS)
    assert (done.prepared, done.added, done.unchanged, done.unused) == (0, 2, 2, 0)


@pytest.fixture
def changed(ranker, prepared, tmp_path):
    """A store with a document that was replaced and one that was deleted."""
    folder = shutil.copytree(prepared, tmp_path / "changed")
    ranker.prepare_store(folder, [{"id": "liver", "text": "an artery"}])
    StoredDocuments(folder).delete(["7"])
    return folder


LEFT = [StoredDocument(None, "sugar"), StoredDocument("empty", ""), StoredDocument("liver", "an artery")]


def test_compacting_removes_what_nobody_finds_and_reads_nothing(ranker, model, changed, monkeypatch):
    documents, reader = StoredDocuments(changed), StoredDocuments(changed)
    assert (documents.unused_blocks(), reader.get(["empty"])) == (2, LEFT[1:2])
    stored = BlockRankReranker.from_pretrained(model, dtype="float32", store=changed)
    stored.rank(QUERIES[1], documents)
    assert documents.compact() > 0
    assert (documents.unused_blocks(), documents.compact()) == (0, 0)
    for it in (documents, reader, StoredDocuments(changed)):
        assert [*it] == LEFT
    assert "aspirin" not in "".join(path.read_text() for path in changed.glob("documents-*"))
    assert len(StateStore(changed, ranker.engine.fingerprint)) == 3
    monkeypatch.setattr(stored.engine, "document_states", lambda texts, *rest: iter(() if not texts else 1 / 0))
    assert_same(stored.rank(QUERIES[1], documents), ranker.rank(QUERIES[1], ["sugar", "", "an artery"]))
    monkeypatch.undo()
    assert ranker.prepare_store(changed, DOCUMENTS).prepared == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_kill_while_a_store_is_compacted_leaves_every_document_with_its_states(ranker, changed):
    texts, killed = [document.text for document in LEFT], 0
    for step in range(100):
        child = os.fork()
        if child == 0:
            unlink, left = os.unlink, iter(range(step))

            def counted(*arguments, unlink=unlink, left=left, **options):
                if next(left, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                unlink(*arguments, **options)

            os.unlink = counted
            StoredDocuments(changed).compact()
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert [*StoredDocuments(changed)] == LEFT
            store = StateStore(changed, ranker.engine.fingerprint)
            assert all(store.get(text) for text in texts)
        if code == 0:
            break
        killed += 1
    assert killed > 4
    assert StoredDocuments(changed).unused_blocks() == 0
    assert len(store) == 3


def test_a_store_without_documents_keeps_its_states_when_it_is_compacted(ranker, prepared, tmp_path):
    folder = shutil.copytree(prepared, tmp_path / "old")
    for path in folder.glob("documents-*"):
        path.unlink()
    assert StoredDocuments(folder).compact() == 0
    assert len(StateStore(folder, ranker.engine.fingerprint)) == len(DOCUMENTS)
    assert not [*folder.glob("documents-*")]


def test_a_store_with_damaged_documents_is_not_compacted(changed):
    path = min(changed.glob("documents-*"))
    path.write_bytes(b"x" + path.read_bytes())
    before = {it.name: it.read_bytes() for it in changed.iterdir()}
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(ValueError, match="prepare them again"):
        StoredDocuments(changed).compact()
    assert {it.name: it.read_bytes() for it in changed.iterdir()} == before


def test_another_store_in_the_place_of_one_that_is_open_is_read_anew(tmp_path):
    for text in ("sugar", "a longer text about salt"):
        put(StoredDocuments(StateStore(tmp_path / text, "print", torch.float32).folder), f"a: {text}")
    reader = StoredDocuments(tmp_path / "sugar")
    assert reader.get(["a"])[0].text == "sugar"
    times = (tmp_path / "sugar").stat()
    shutil.rmtree(tmp_path / "sugar")
    (tmp_path / "a longer text about salt").rename(tmp_path / "sugar")
    os.utime(tmp_path / "sugar", ns=(times.st_atime_ns, times.st_mtime_ns))  # so that nothing but the text tells
    assert reader.get(["a"])[0].text == "a longer text about salt"


def test_iterating_goes_on_where_another_process_compacts_and_leaves_out_what_it_deleted(kept):
    count = stored_documents.FILE_DOCUMENTS + 2
    put(kept, *(f"{number}: x" for number in range(count)))
    reading = iter(StoredDocuments(kept.folder))
    assert next(reading).id == "0"
    kept.delete([count - 1])
    kept.compact()
    assert [document.id for document in reading] == [str(number) for number in range(1, count - 1)]


def test_documents_of_a_store_go_through_a_pickle_and_a_copy(prepared):
    for again in (pickle.loads(pickle.dumps(StoredDocuments(prepared))), copy.deepcopy(StoredDocuments(prepared))):
        assert again.ids == IDS


def test_what_is_compacted_away_while_it_is_prepared_is_read_again(ranker, tmp_path):
    ranker.prepare_store(tmp_path, [{"id": "a", "text": "sugar"}, {"id": "b", "text": "salt"}])
    StoredDocuments(tmp_path).delete(["a"])
    compacted = []

    def compact(documents, tokens):
        # The states of sugar were found, and those of blood are written; neither has a document.
        if not compacted:
            compacted.append(StoredDocuments(tmp_path).compact())

    ranker.prepare_store(tmp_path, [{"id": "c", "text": "sugar"}, {"id": "d", "text": "blood"}], on_progress=compact)
    assert compacted[0] > 0
    store = StateStore(tmp_path, ranker.engine.fingerprint)
    assert all(text in store for text in ("sugar", "salt", "blood"))


def test_compacting_makes_few_files_of_many_small_ones(ranker, tmp_path):
    texts = [f"sugar {'salt ' * number}" for number in range(5)]
    for number, text in enumerate(texts):
        ranker.prepare_store(tmp_path, [{"id": number, "text": text}])
    want = ranker.search(tmp_path, QUERIES[0], None)
    StoredDocuments(tmp_path).compact()
    (group,) = tmp_path.glob("group-*")
    assert_same(ranker.search(tmp_path, QUERIES[0], None), want)
    assert ranker.prepare_store(tmp_path, texts).prepared == 0
    StoredDocuments(tmp_path).compact()
    assert [*tmp_path.glob("group-*")] == [group]  # what is one already stays


def test_a_copy_by_hand_is_no_file_of_the_store(kept):
    put(kept, "a: x")
    (file,) = kept.folder.glob("documents-*.jsonl")
    shutil.copy(file, file.with_name("documents-000000 copy.jsonl"))
    put(kept, "b: y")
    assert [path.name for path in sorted(kept.folder.glob("documents-*"))][1:] == [file.name, "documents-000001.jsonl"]
    assert kept.ids == ["a", "b"]


def test_unknown_ids_are_counted_and_named_with_the_store_and_nothing_is_deleted(kept):
    put(kept, "a: x", "b: y")
    unknown = ["\x1b[2J", "n" * 500, "\ud800", "\u202e", "5", "6"]
    for use in (kept.get, kept.delete):
        with pytest.raises(UnknownIdsError) as refused:
            use(["a", *unknown])
        assert refused.value.ids == unknown
        message = str(refused.value)
        assert message.startswith(f"6 of 7 ids are not in the store {kept.folder}: '\\x1b[2J', 'nnn")
        assert "'\\ud800', '\\u202e', '5', …; its ids are those of the documents that were prepared into it" in message
        assert len(message) < 500 + len(str(kept.folder))
    assert read_anew(kept) == {"a": "x", "b": "y"}


@pytest.mark.parametrize("ids", ["ab", 7, None, [b"a"], [True], [None]])
def test_what_is_no_list_of_ids_is_refused(kept, ids):
    for use in (kept.get, kept.delete):
        with pytest.raises(TypeError, match=r"ids(\[0\])? must be"):
            use(ids)


def test_ids_of_any_unicode_come_back_as_they_are(kept):
    ids = [
        "a\nb",
        "\x00",
        "\u2028",
        "é",
        "e\u0301",
        "🩸",
        "\ud83e\ude78",
        "\ud800",
        "\\ud800",
        '"',
        "x" * MAX_ID_CHARACTERS,
    ]
    kept.put([StoredDocument(name, name) for name in ids], [text_digest(name) for name in ids])
    assert read_anew(kept) == {name: name for name in ids}
    assert [document.text for document in StoredDocuments(kept.folder).get(ids)] == ids


@pytest.mark.parametrize("name", ["", "x" * (MAX_ID_CHARACTERS + 1)], ids=["empty", "long"])
def test_an_id_that_cannot_be_one_is_refused_by_the_index_of_its_document(ranker, tmp_path, name):
    with pytest.raises(
        ValueError, match=rf"documents\[1\] must have an id of 1 to 1,024 characters, .*got {len(name):,}"
    ):
        ranker.prepare_store(tmp_path, ["sugar", {"id": name, "text": "blood"}])


def test_ids_that_come_with_different_texts_bring_one_warning_and_keep_the_last(ranker, tmp_path, monkeypatch):
    monkeypatch.setattr(store_preparation, "LOOK_AHEAD", 2)
    texts = {"a": ["sugar", "sugar"], "b": ["blood", "artery"], "c": ["liver", "blood", "liver"]}
    corpus = [{"id": name, "text": text} for name, several in texts.items() for text in several]
    with pytest.warns(UserWarning, match="2 of the ids came with different texts, .*: 'b', 'c'; give") as warned:
        done = ranker.prepare_store(tmp_path, corpus)
    assert (len(warned), warned[0].filename) == (1, __file__)
    assert (done.added, done.replaced, done.unchanged) == (3, 3, 1)
    kept = StoredDocuments(tmp_path).get(["a", "b", "c"])
    assert [document.text for document in kept] == ["sugar", "artery", "liver"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ranker.prepare_store(tmp_path, [{"id": "b", "text": "the liver"}] * 3)


def test_a_long_document_has_one_id_and_all_of_its_passages(model, tmp_path):
    options = {"dtype": "float32", "max_document_tokens": 40, "long_documents": "split"}
    splitting = BlockRankReranker.from_pretrained(model, **options)
    text = "sugar liver artery " * 30
    done = splitting.prepare_store(tmp_path, [{"id": "long", "text": text}])
    assert done.blocks > done.documents == 1
    documents = StoredDocuments(tmp_path)
    assert documents.get(["long"]) == [StoredDocument("long", text)]
    documents.delete(["long"])
    assert documents.unused_blocks() == done.blocks


def test_opening_reads_no_ids_and_looking_up_writes_nothing(prepared, ranker, monkeypatch):
    opened = []
    reading = stored_documents.open_documents
    monkeypatch.setattr(stored_documents, "open_documents", lambda path: opened.append(path) or reading(path))
    (prepared / "lock").unlink(missing_ok=True)
    before = {path: path.stat().st_mtime_ns for path in prepared.iterdir()}
    StateStore(prepared, ranker.engine.fingerprint)
    documents = StoredDocuments(prepared)
    assert not opened
    documents.get(["7"])
    documents.get(["liver"])
    assert len(opened) == 1
    assert {path: path.stat().st_mtime_ns for path in prepared.iterdir()} == before


def test_the_documents_of_a_store_are_a_corpus_for_another_one(ranker, prepared, tmp_path):
    done = ranker.prepare_store(tmp_path, StoredDocuments(prepared))
    assert (done.prepared, done.added) == (4, 4)
    assert [*StoredDocuments(tmp_path)] == [*StoredDocuments(prepared)]


def test_a_folder_that_is_no_store_has_no_documents(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FileNotFoundError, match="holds no prepared documents: make them with 'blockrank prepare'"):
            StoredDocuments(folder)


# Other releases


def make_earlier(folder, engine, version):
    """Turn a store into one of an earlier release, which keeps ids since version 5."""
    for path in folder.glob("documents-*") if version == 4 else ():
        path.unlink()
    print_of_all = earlier_fingerprint(engine.config, engine.prompt, engine.backbone)
    settings = {"reduction": engine.config.reduction, "long_documents": engine.config.long_documents}
    change_manifest(folder, version=version, fingerprint=print_of_all, settings=settings)


def change_manifest(folder, **changes):
    path = folder / "store.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_store_of_a_release_before_ids_is_read_and_gets_ids_without_reading_a_document_again(ranker, model, tmp_path):
    ranker.prepare_store(tmp_path, DOCUMENTS)
    make_earlier(tmp_path, ranker.engine, 4)
    stored = BlockRankReranker.from_pretrained(model, dtype="float32", store=tmp_path)
    assert_same(stored.rank(QUERIES[0], DOCUMENTS), ranker.rank(QUERIES[0], DOCUMENTS))
    documents = StoredDocuments(tmp_path)
    with pytest.raises(
        UnknownIdsError, match=r"its ids are none, as it was made by an earlier release .*; prepare them"
    ):
        documents.get(["liver"])
    done = ranker.prepare_store(tmp_path, DOCUMENTS)
    assert (done.prepared, done.found, done.added) == (0, 4, 4)
    assert json.loads((tmp_path / "store.json").read_text())["version"] == FORMAT_VERSION
    assert documents.get(["liver"])[0].title == "the liver"


def test_the_fingerprint_of_earlier_stores_is_what_earlier_releases_computed(ranker):
    engine, digest = ranker.engine, hashlib.blake2b(digest_size=16)
    settings = asdict(engine.config)
    del settings["content_free_query"], settings["answerability"]  # did not exist
    digest.update(json.dumps(settings, sort_keys=True).encode())
    digest.update(fingerprints._architecture(engine.backbone).encode())
    digest.update(engine.prompt.tokenizer_digest.encode() + engine.prompt.beginning.encode())
    for name, tensor in sorted(engine.backbone.named_parameters()):
        for part in tensor_bytes(name, tensor.detach()):
            digest.update(part)
    assert earlier_fingerprint(engine.config, engine.prompt, engine.backbone) == digest.hexdigest()


@pytest.mark.parametrize("version", EARLIER_VERSIONS)
def test_a_store_with_an_earlier_fingerprint_is_read_and_prepared_again_it_serves_other_queries_sides(
    ranker, model, tmp_path, version
):
    ranker.prepare_store(tmp_path, DOCUMENTS)
    make_earlier(tmp_path, ranker.engine, version)
    of_earlier = {"reduction": "mean_of_softmax"}
    assert ranker.config.reduction != of_earlier["reduction"]
    other = {"dtype": "float32", "config": replace(ranker.config, **of_earlier), "store": tmp_path}
    with pytest.raises(ValueError, match="it is of an earlier release, which told apart settings of the query too"):
        BlockRankReranker.from_pretrained(model, **other).rank(QUERIES[0], DOCUMENTS)
    assert ranker.prepare_store(tmp_path, DOCUMENTS).prepared == 0
    ranked = BlockRankReranker.from_pretrained(model, **other).rank(QUERIES[0], DOCUMENTS)
    assert {document.served_from for document in ranked} == {"stored"}


@pytest.mark.parametrize("version", [min(EARLIER_VERSIONS) - 1, FORMAT_VERSION + 1])
def test_a_store_of_a_format_that_is_not_known_is_refused(kept, version):
    change_manifest(kept.folder, version=version)
    for use in (StoredDocuments, lambda folder: StateStore(folder, "print")):
        with pytest.raises(
            ValueError, match=r"store\.json is of another release of blockrank-rerank; prepare into a new"
        ):
            use(kept.folder)


# Damage and interruption


def make_folder(path):
    path.unlink()
    path.mkdir()


def replace_bytes(old, new):
    def spoil(path):
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new, 1))

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff" * 100),
        lambda path: path.write_bytes(path.read_bytes()[:40]),
        lambda path: path.write_bytes(b"0\nnull\n"),
        replace_bytes(b'"ids": ["a"', b'"ids": ["c"'),
        make_folder,
    ],
    ids=["empty", "noise", "torn", "other", "index", "folder"],
)
def test_a_damaged_file_of_documents_costs_its_own_alone_and_is_repaired_by_preparing_again(kept, spoil):
    put(kept, "a: x", "d: w")
    put(kept, "b: y")
    spoil(kept.folder / "documents-000000.jsonl")
    with pytest.warns(UserWarning, match=r"documents-000000\.jsonl is damaged and left out: .*prepare them again"):
        again = read_anew(kept)
    assert again == {"b": "y"}
    again = StoredDocuments(kept.folder)
    with pytest.warns(UserWarning, match="is damaged and left out"):
        again.set_damaged_aside()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # told once
        assert put(again, "a: x", "b: y") == (1, 0, 1)
        assert read_anew(kept) == {"a": "x", "b": "y"}
    assert sorted(path.name for path in kept.folder.glob("documents-*")) == [
        "documents-000000.damaged",
        "documents-000001.jsonl",
        "documents-000002.jsonl",
    ]


def test_a_damaged_document_is_told_by_its_file_and_prepared_again(kept):
    put(kept, "a: sugar", "b: y")
    replace_bytes(b"sugar", b"sugax")(kept.folder / "documents-000000.jsonl")
    again = StoredDocuments(kept.folder)
    assert again.get(["b"])[0].text == "y"
    with pytest.raises(ValueError, match=r"a document in .*documents-000000\.jsonl is damaged; prepare it again"):
        again.get(["b", "a"])
    with pytest.warns(UserWarning, match="is damaged; prepare it again: it counts as missing"):
        assert put(again, "a: sugar", "b: y") == (1, 0, 1)
    assert again.get(["a"])[0].text == "sugar"


def test_a_reader_goes_on_where_another_process_set_its_file_aside(kept):
    put(kept, "a: x", "c: z")
    reader = StoredDocuments(kept.folder)
    assert reader.get(["a"])
    (kept.folder / "documents-000000.jsonl").rename(kept.folder / "documents-000000.damaged")
    put(StoredDocuments(kept.folder), "b: y", "a: x")
    assert [document.text for document in reader.get(["a", "b"])] == ["x", "y"]
    with pytest.raises(UnknownIdsError, match="1 of 2 ids"):
        reader.get(["c", "b"])


def test_the_name_of_a_file_that_was_set_aside_is_not_used_again(tmp_path):
    (tmp_path / "documents-000004.damaged").touch()
    (tmp_path / "documents-000009.unfinished").touch()
    assert next_documents_path(tmp_path).name == "documents-000005.jsonl"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("change", [lambda kept: put(kept, "a: z", "c: w"), lambda kept: kept.delete(["a"])])
def test_a_kill_while_documents_are_written_leaves_what_was_there(kept, monkeypatch, change):
    put(kept, "a: x")
    child = os.fork()
    if child == 0:

        def half(*arguments):
            yield next(iter(documents_content(*arguments)))
            os.kill(os.getpid(), signal.SIGKILL)

        stored_documents.documents_content = half
        change(kept)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert [path.name for path in kept.folder.glob("*.unfinished")] == ["documents-000001.unfinished"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_anew(kept) == {"a": "x"}
        put(kept, "b: y")
        assert read_anew(kept) == {"a": "x", "b": "y"}
    assert not list(kept.folder.glob("*.unfinished"))


def test_documents_are_named_once_their_states_are_there(ranker, tmp_path, monkeypatch):
    """So that whoever is killed between the two leaves states alone, which the next run finds."""
    there = []
    keep = StoredDocuments.put

    def looking(documents, stored, blocks):
        there.append(StateStore(tmp_path, ranker.engine.fingerprint).get("sugar") is not None)
        return keep(documents, stored, blocks)

    monkeypatch.setattr(StoredDocuments, "put", looking)
    ranker.prepare_store(tmp_path, ["sugar"])
    assert there == [True]


def test_a_full_disk_is_told_with_the_folder_and_leaves_what_was_there(kept, monkeypatch):
    put(kept, "a: x")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("blockrank_rerank.system.files.sync", full)
        with pytest.raises(OSError, match="No space left") as refused:
            put(kept, "b: y")
    assert refused.value.filename == str(kept.folder)
    assert not list(kept.folder.glob("*.unfinished"))
    assert read_anew(kept) == {"a": "x"}


def test_writers_at_once_lose_nothing_of_each_other(kept):
    def write(number):
        own = StoredDocuments(kept.folder)
        for turn in range(4):
            put(own, f"{number}-{turn}: x{turn}", f"shared: {number}")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = read_anew(kept)
    assert found.keys() == {"shared", *(f"{number}-{turn}" for number in range(4) for turn in range(4))}


# The command


def test_the_command_keeps_ids_replaces_and_deletes(model, tmp_path, capsys):
    corpus, store = tmp_path / "corpus.jsonl", tmp_path / "store"
    arguments = ["prepare", str(corpus), str(store), "--model", str(model), "--dtype", "float32"]
    corpus.write_text("\n".join(map(json.dumps, [LIVER, {"_id": 7, "text": "blood"}, "sugar"])))
    assert main(arguments) == 0
    assert f"3 documents added, 0 replaced, 0 unchanged; {store} holds 3" in capsys.readouterr().out
    assert StoredDocuments(store).get(["liver"]) == [StoredDocument("liver", " stores sugar ", "the liver")]
    corpus.write_text("\n".join(map(json.dumps, [{"id": "liver", "text": "it"}, {"_id": 7, "text": "blood"}])))
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "0 documents added, 1 replaced, 1 unchanged" in out
    assert "1 blocks of replaced and deleted documents, and their texts, stay in its files" in out
    assert "'blockrank prepare STORE --compact' removes them" in out
    assert main(["prepare", str(store), "--delete", "liver", "--delete", "7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"deleted": 2, "documents": 1, "unused": 3, "freed_bytes": 0}
    assert main(["prepare", str(store), "--compact"]) == 0
    assert re.fullmatch(
        rf"0 documents deleted; {re.escape(str(store))} holds 1\n0\.\d MB freed\n", capsys.readouterr().out
    )
    assert main(["prepare", str(store), "--delete", "\x1bliver"]) == 2
    assert f"1 of 1 ids are not in the store {store}: '\\x1bliver'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "found"),
    [
        (["prepare", "a.txt"], 2, "prepare takes CORPUS and STORE; STORE alone goes with --delete and --compact"),
        (
            ["prepare", "a.txt", "store", "--delete", "7"],
            2,
            "--delete and --compact take STORE alone, got a.txt and store",
        ),
        (["prepare", "a.txt", "--compact"], 4, "a.txt holds no prepared documents"),
        (["prepare", "absent", "--delete", "7"], 4, "absent holds no prepared documents"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(tmp_path, monkeypatch, capsys, arguments, code, found):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("sugar")
    assert main(arguments) == code
    assert found in capsys.readouterr().err


def test_an_id_that_is_too_long_is_told_by_its_line(model, tmp_path, capsys):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(f'"sugar"\n{json.dumps({"id": "x" * 2000, "text": "blood"})}\n')
    assert main(["prepare", str(corpus), str(tmp_path / "store"), "--model", str(model), "--dtype", "float32"]) == 5
    assert f"{corpus}:2 must have an id of 1 to 1,024 characters" in capsys.readouterr().err
