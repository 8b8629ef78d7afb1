"""States on disk: found by text, never stale, never half written."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import shutil
import signal
import threading
import time
import warnings
from dataclasses import replace

import pytest
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from blockrank_rerank import BlockRankReranker, StoredDocuments
from blockrank_rerank.cli.app import main
from blockrank_rerank.engine import store_preparation
from blockrank_rerank.states import group_files, manifest
from blockrank_rerank.states import store as store_module
from blockrank_rerank.states.manifest import FORMAT_VERSION
from blockrank_rerank.states.store import StateStore
from tests.states.test_prepared import DOCUMENTS, QUERIES, assert_same, save_ranker
from tests.tiny_models import BERT_CONFIG, CONFIG

UNIQUE = 5
QUERY_FREE = replace(CONFIG, scoring_layer=3, prompt=CONFIG.prompt.without_query())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_ranker(tmp_path_factory.mktemp("bert"), "bert", BERT_CONFIG)


@pytest.fixture
def ranker(folder):
    return BlockRankReranker.from_pretrained(folder, dtype="float32")


def open_store(ranker, store):
    return StateStore(store, ranker.engine.fingerprint)


def test_documents_of_a_store_are_not_read_again_and_rank_as_ever(ranker, folder, tmp_path, monkeypatch):
    done = ranker.prepare_store(tmp_path / "store", iter(DOCUMENTS))
    assert (done.prepared, done.found, done.blocks) == (UNIQUE, 0, UNIQUE)
    stored = BlockRankReranker.from_pretrained(folder, dtype="float32", store=tmp_path / "store")
    read = []
    engine = stored.engine
    states = engine.document_states
    monkeypatch.setattr(engine, "document_states", lambda texts, *rest: read.extend(texts) or states(texts, *rest))
    for query in QUERIES:
        assert_same(stored.rank(query, [*DOCUMENTS, "blood"]), ranker.rank(query, [*DOCUMENTS, "blood"]))
    assert read == ["blood"] * len(QUERIES)


def test_a_list_with_nothing_in_the_store_brings_one_warning(ranker, folder, tmp_path):
    ranker.prepare_store(tmp_path, DOCUMENTS)
    stored, other = (BlockRankReranker.from_pretrained(folder, dtype="float32", store=tmp_path) for _ in range(2))
    with pytest.warns(UserWarning, match="none of 1 documents is in the store") as warned:
        stored.rank(QUERIES[0], ["file: x\n\n" + DOCUMENTS[0]])
    assert warned[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stored.rank(QUERIES[0], ["another"])
        other.rank(QUERIES[0], DOCUMENTS)
        other.rank(QUERIES[0], ["another"])


def test_a_decoder_keeps_keys_and_values_of_all_its_layers(tmp_path):
    save_ranker(tmp_path / "model", "llama", CONFIG)
    free = BlockRankReranker.from_pretrained(tmp_path / "model", dtype="float32").query_free()
    free.prepare_store(tmp_path / "store", DOCUMENTS)
    stored = BlockRankReranker.from_pretrained(
        tmp_path / "model", config=free.config, dtype="float32", store=tmp_path / "store"
    )
    assert_same(stored.rank(QUERIES[0], DOCUMENTS), free.rank(QUERIES[0], DOCUMENTS))


def test_preparing_again_goes_on_where_it_stopped_and_appends(ranker, tmp_path):
    assert ranker.prepare_store(tmp_path, DOCUMENTS[:2]).prepared == 2
    done = ranker.prepare_store(tmp_path, [*DOCUMENTS, "blood"])
    assert (done.prepared, done.found, done.blocks) == (UNIQUE - 1, 2, UNIQUE + 1)
    assert done.nbytes == sum(path.stat().st_size for path in tmp_path.glob("group-*"))
    assert ranker.prepare_store(tmp_path, DOCUMENTS).prepared == 0


def test_a_reader_sees_what_another_process_appended_after_a_refresh(ranker, tmp_path):
    ranker.prepare_store(tmp_path, DOCUMENTS[:1])
    reader = open_store(ranker, tmp_path)
    ranker.prepare_store(tmp_path, DOCUMENTS)
    assert len(reader) == 1
    reader.refresh()
    assert len(reader) == UNIQUE


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_smaller_states_are_smaller_on_disk(ranker, folder, tmp_path, dtype):
    exact = ranker.prepare_store(tmp_path / "exact", DOCUMENTS * 40 + [f"blood {n}" for n in range(200)])
    small = ranker.prepare_store(tmp_path / "small", DOCUMENTS * 40 + [f"blood {n}" for n in range(200)], dtype=dtype)
    assert small.nbytes < 0.7 * exact.nbytes
    stored = BlockRankReranker.from_pretrained(folder, dtype="float32", store=tmp_path / "small")
    expected = {d.index: d.score for d in ranker.rank(QUERIES[0], DOCUMENTS)}
    for document in stored.rank(QUERIES[0], DOCUMENTS):
        assert document.score == pytest.approx(expected[document.index], abs=0.01)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("stored_first", [True, False])
@pytest.mark.parametrize("limit", [None, "1KB", "200KB"])
def test_a_store_that_holds_part_of_a_list_ranks_as_one_that_holds_all_of_it(
    family, limit, stored_first, dtype, tmp_path
):
    config = BERT_CONFIG if family == "bert" else QUERY_FREE
    folder = save_ranker(tmp_path / "model", family, config)
    plain = BlockRankReranker.from_pretrained(folder, dtype="float32")
    documents = DOCUMENTS[:3] if stored_first else DOCUMENTS[2::-1]
    plain.prepare_store(tmp_path / "part", DOCUMENTS[:1], dtype=dtype)
    part = BlockRankReranker.from_pretrained(folder, dtype="float32", store=tmp_path / "part", max_memory=limit)
    expected = {document.index: document for document in plain.rank(QUERIES[0], documents)}
    for document in part.rank(QUERIES[0], documents):
        other = expected[document.index]
        assert document.raw_score == pytest.approx(other.raw_score, abs=0.05)
        assert document.score == pytest.approx(other.score, abs=0.01)


@pytest.mark.parametrize("change", [{"rms_norm_eps": 0.5}, {"hidden_act": "relu"}, {"rope_theta": 7.0}], ids=str)
def test_a_store_of_a_model_whose_config_json_differs_is_refused(change, tmp_path):
    folder = save_ranker(tmp_path / "model", "llama", QUERY_FREE)
    ranker = BlockRankReranker.from_pretrained(folder, dtype="float32")
    prepared = ranker.prepare(DOCUMENTS)
    ranker.prepare_store(tmp_path / "store", DOCUMENTS)
    settings = json.loads((folder / "config.json").read_text())
    name, value = next(iter(change.items()))
    (settings["rope_parameters"] if name == "rope_theta" else settings)[name] = value
    shutil.copytree(folder, tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text(json.dumps(settings))
    options = {"dtype": "float32", "store": tmp_path / "store"}
    other = BlockRankReranker.from_pretrained(tmp_path / "other", **options)
    with pytest.raises(ValueError, match=r"was prepared by another model, .*: config\.json "):
        other.rank(QUERIES[0], DOCUMENTS)
    with pytest.raises(ValueError, match="documents were prepared by another model"):
        other.rank(QUERIES[0], prepared)
    moved = shutil.copytree(folder, tmp_path / "moved")
    same = BlockRankReranker.from_pretrained(moved, **options)
    assert_same(same.rank(QUERIES[0], DOCUMENTS), ranker.rank(QUERIES[0], DOCUMENTS))


def test_states_of_another_chat_template_are_refused(tmp_path):
    config = replace(QUERY_FREE, prompt=replace(QUERY_FREE.prompt, chat=True))
    folder = save_ranker(tmp_path / "model", "llama", config)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def greeting(words):
        tokenizer.chat_template = "{% for message in messages %}" + words + "{{ message.content }}{% endfor %}"
        tokenizer.save_pretrained(folder)
        return BlockRankReranker.from_pretrained(folder, dtype="float32", store=tmp_path / "s")

    ranker = greeting("")
    ranker.prepare_store(tmp_path / "s", DOCUMENTS)
    prepared = ranker.prepare(DOCUMENTS)
    ranker = greeting("it stores sugar ")
    with pytest.raises(ValueError, match="beginning of the chat template '' and not 'it stores sugar '"):
        ranker.rank(QUERIES[0], DOCUMENTS)
    with pytest.raises(ValueError, match="prepared by another model"):
        ranker.rank(QUERIES[0], prepared)


def test_what_a_cache_took_from_a_store_is_its_own(ranker, folder, tmp_path):
    ranker.prepare_store(tmp_path / "s", DOCUMENTS)
    cached = BlockRankReranker.from_pretrained(folder, dtype="float32", store=tmp_path / "s", cache="1MB")
    expected = cached.rank(QUERIES[0], DOCUMENTS)
    [group] = (tmp_path / "s").glob("group-*.safetensors")
    with group.open("r+b") as file:
        size = group.stat().st_size
        file.seek(size // 2)
        file.write(bytes(size - size // 2))
    assert_same(cached.rank(QUERIES[0], DOCUMENTS), expected)


def test_a_store_of_another_model_dtype_or_thing_is_refused(ranker, folder, tmp_path):
    ranker.prepare_store(tmp_path / "store", DOCUMENTS)
    other = ranker.with_config(max_document_tokens=40)
    with pytest.raises(ValueError, match="was prepared by another model, revision, dtype or config"):
        other.prepare_store(tmp_path / "store", DOCUMENTS)
    half = BlockRankReranker.from_pretrained(folder, dtype="bfloat16", store=tmp_path / "store")
    with pytest.raises(ValueError, match="dtype of the model 'float32' and not 'bfloat16'; use that one"):
        half.rank(QUERIES[0], DOCUMENTS)
    with pytest.raises(ValueError, match="holds states in float32, not int8"):
        ranker.prepare_store(tmp_path / "store", DOCUMENTS, dtype="int8")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="neither a store of prepared documents nor an empty folder"):
        ranker.prepare_store(tmp_path / "other", DOCUMENTS)
    absent = BlockRankReranker.from_pretrained(folder, dtype="float32", store=tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="holds no prepared documents"):
        absent.rank(QUERIES[0], DOCUMENTS)
    (tmp_path / "store" / "store.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        ranker.prepare_store(tmp_path / "store", DOCUMENTS)


@pytest.mark.parametrize("where", ["states", "header", "end", "head.key", '"ids"'])
def test_damage_is_reported_and_repaired_by_preparing_again(ranker, folder, tmp_path, where):
    ranker.prepare_store(tmp_path, DOCUMENTS)
    (group,) = tmp_path.glob("group-*")
    content = bytearray(group.read_bytes())
    if where == "end":
        del content[-100:]
    elif where in ("head.key", '"ids"'):  # one bit of a name in the header
        content[content.index(where.encode()) + 2] ^= 1
    else:
        place = 20 if where == "header" else len(content) - 1000
        content[place : place + 40] = bytes(40)
    group.write_bytes(content)
    expected = ranker.rank(QUERIES[0], DOCUMENTS)
    stored = BlockRankReranker.from_pretrained(folder, dtype="float32", store=tmp_path)
    with pytest.warns(UserWarning, match="is damaged"):
        got = stored.rank(QUERIES[0], DOCUMENTS)
    assert_same(got, expected)
    with pytest.warns(UserWarning, match="is damaged"):
        assert ranker.prepare_store(tmp_path, DOCUMENTS).prepared > 0
    again = BlockRankReranker.from_pretrained(folder, dtype="float32", store=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what is damaged has been replaced
        assert_same(again.rank(QUERIES[0], DOCUMENTS), expected)


def test_a_group_that_cannot_be_read_is_set_aside_once_its_documents_are_prepared_again(ranker, folder, tmp_path):
    ranker.prepare_store(tmp_path, DOCUMENTS)
    (group,) = tmp_path.glob("group-*")
    group.write_bytes(group.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="is damaged"):
        ranker.prepare_store(tmp_path, DOCUMENTS)
    assert [path.name for path in tmp_path.glob("*.damaged")] == ["group-000000.damaged"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ranker.prepare_store(tmp_path, DOCUMENTS).found == UNIQUE


def test_two_that_find_a_group_damaged_set_aside_nothing_that_is_whole(ranker, tmp_path):
    ranker.prepare_store(tmp_path, DOCUMENTS)
    (group,) = tmp_path.glob("group-*")
    group.write_bytes(group.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="is damaged"):
        first, second = open_store(ranker, tmp_path), open_store(ranker, tmp_path)
    first.set_damaged_aside()
    states = list(ranker.engine.document_states(["sugar"], ranker.dtype))
    assert first.append(["sugar"], states) == 1
    assert group.exists()
    second.set_damaged_aside()
    second.refresh()
    assert "sugar" in second
    assert second.append(["sugar"], states) == 0


@pytest.mark.parametrize(("module", "name"), [(store_module, "open_group"), (group_files, "_open")])
def test_a_group_that_goes_while_a_store_is_opened_is_passed_over(ranker, tmp_path, monkeypatch, module, name):
    ranker.prepare_store(tmp_path, DOCUMENTS)
    opening = getattr(module, name)
    monkeypatch.setattr(module, name, lambda path: path.unlink(missing_ok=True) or opening(path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(open_store(ranker, tmp_path)) == 0


def other_model(folder, tmp_path):
    """A ranker whose weights are others."""
    shutil.copytree(folder, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor + 0.1 for name, tensor in weights.items()}, tmp_path / "model" / "model.safetensors")
    return BlockRankReranker.from_pretrained(tmp_path / "model", dtype="float32")


def test_a_store_of_another_model_in_the_place_of_one_that_is_open_is_refused(ranker, folder, tmp_path):
    store, other = tmp_path / "store", other_model(folder, tmp_path)
    ranker.prepare_store(store, DOCUMENTS[:2])
    stored = BlockRankReranker.from_pretrained(folder, dtype="float32", store=store)
    stored.rank(QUERIES[0], DOCUMENTS)
    shutil.rmtree(store)
    assert_same(stored.rank(QUERIES[0], DOCUMENTS), ranker.rank(QUERIES[0], DOCUMENTS))
    for some in (DOCUMENTS[:2], DOCUMENTS[2:]):
        other.prepare_store(store, some)
    for _ in range(2):
        with pytest.raises(ValueError, match="was prepared by another model"):
            stored.rank(QUERIES[0], DOCUMENTS)
    shutil.rmtree(store)
    ranker.prepare_store(store, DOCUMENTS)
    assert {found.served_from for found in stored.rank(QUERIES[0], DOCUMENTS)} == {"stored"}


def test_a_writer_whose_store_is_another_models_by_now_writes_nothing(ranker, folder, tmp_path):
    store = StateStore(tmp_path / "store", ranker.engine.fingerprint, ranker.dtype)
    states = list(ranker.engine.document_states(["sugar"], ranker.dtype))
    shutil.rmtree(store.folder)
    other_model(folder, tmp_path).prepare_store(store.folder, ["blood"])
    with pytest.raises(ValueError, match="was prepared by another model"):
        store.append(["sugar"], states)
    assert len(list(store.folder.glob("group-*"))) == 1


def test_a_group_that_takes_the_name_of_one_that_was_dropped_is_read(ranker, tmp_path):
    ranker.prepare_store(tmp_path, ["sugar"])
    reader, writer = open_store(ranker, tmp_path), open_store(ranker, tmp_path)
    writer.drop([group_files.text_digest("sugar")])
    ranker.prepare_store(tmp_path, ["blood"])
    assert [path.name for path in tmp_path.glob("group-*")] == ["group-000000.safetensors"]
    reader.refresh_if_changed()
    assert "blood" in reader
    assert "sugar" not in reader


def test_what_is_written_in_the_tick_of_the_clock_in_which_one_looked_is_seen(ranker, tmp_path):
    ranker.prepare_store(tmp_path, ["sugar"])
    reader, documents = open_store(ranker, tmp_path), StoredDocuments(tmp_path)
    assert len(documents) == 1
    times = tmp_path.stat()
    ranker.prepare_store(tmp_path, ["blood"])
    os.utime(tmp_path, ns=(times.st_atime_ns, times.st_mtime_ns))
    reader.refresh_if_changed()
    assert "blood" in reader
    assert len(documents) == 2


def test_a_folder_that_has_settled_is_not_read_again(ranker, tmp_path, monkeypatch):
    ranker.prepare_store(tmp_path, ["sugar"])
    reader, documents = open_store(ranker, tmp_path), StoredDocuments(tmp_path)
    past = time.time_ns() - 10 * manifest.LONGEST_TICK_NS
    os.utime(tmp_path, ns=(past, past))
    reader.refresh_if_changed()
    assert len(documents) == 1
    monkeypatch.setattr(reader, "refresh", None)
    monkeypatch.setattr(documents, "refresh", None)
    reader.refresh_if_changed()
    assert len(documents) == 1


def test_a_store_that_another_began_meanwhile_is_shared(ranker, tmp_path, monkeypatch):
    fingerprint = ranker.engine.fingerprint
    looked = []

    def begun_after_the_first_look(folder):
        looked.append(folder)
        if len(looked) == 1:
            monkeypatch.undo()
            ranker.prepare_store(tmp_path, DOCUMENTS)
            look_with(begun_after_the_first_look)
            return None
        return json.loads((tmp_path / "store.json").read_text())

    def look_with(function):
        for module in (store_module, manifest):
            monkeypatch.setattr(module, "read_manifest", function)

    look_with(begun_after_the_first_look)
    assert len(StateStore(tmp_path, fingerprint, ranker.dtype)) == UNIQUE


def test_a_folder_with_files_of_somebody_else_is_refused(ranker, tmp_path):
    (tmp_path / "keystore.json").write_text("{}")
    with pytest.raises(ValueError, match="neither a store of prepared documents nor an empty folder"):
        ranker.prepare_store(tmp_path, DOCUMENTS)


def test_whether_a_document_was_cut_is_part_of_its_checksum(ranker, tmp_path):
    ranker.prepare_store(tmp_path, ["sugar"])
    (group,) = tmp_path.glob("group-*")
    tensors = load_file(group)
    save_file(tensors | {"truncated": 1 - tensors["truncated"]}, group)
    with pytest.warns(UserWarning, match="its checksum does not match"):
        assert open_store(ranker, tmp_path).get("sugar") is None


def test_files_of_a_store_have_the_permissions_of_any_other(ranker, tmp_path):
    before = os.umask(0o022)
    try:
        ranker.prepare_store(tmp_path / "store", DOCUMENTS)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "store").iterdir() if path.name != "lock"}
    assert modes == dict.fromkeys(("store.json", "group-000000.safetensors", "documents-000000.jsonl"), 0o644)


def test_what_an_interrupted_beginning_leaves_is_in_nobodys_way(ranker, tmp_path):
    (tmp_path / ".store.json.0a1b2c3d.tmp").write_text("{")
    (tmp_path / "lock").touch()
    assert ranker.prepare_store(tmp_path, DOCUMENTS).prepared == UNIQUE


def test_a_store_of_a_float64_model_holds_float32(folder, tmp_path):
    exact = BlockRankReranker.from_pretrained(folder, dtype="float64", store=tmp_path)
    exact.prepare_store(tmp_path, DOCUMENTS)
    assert exact.prepare_store(tmp_path, DOCUMENTS).found == UNIQUE
    assert_same(exact.rank(QUERIES[0], DOCUMENTS), exact.rank(QUERIES[0], exact.prepare(DOCUMENTS)))


@pytest.mark.parametrize("documents", ["abc", {"text": "a"}, None])
def test_what_is_no_list_of_documents_is_not_taken_apart(ranker, tmp_path, documents):
    with pytest.raises(TypeError, match="documents must be a list of documents"):
        ranker.prepare_store(tmp_path, documents)


def test_a_store_without_its_manifest_says_so(ranker, tmp_path):
    ranker.prepare_store(tmp_path, DOCUMENTS)
    (tmp_path / "store.json").unlink()
    with pytest.raises(ValueError, match=r"has lost its store\.json; delete the folder and prepare again"):
        ranker.prepare_store(tmp_path, DOCUMENTS)
    manifest = {"version": FORMAT_VERSION, "fingerprint": "x", "dtype": "nonsense"}
    (tmp_path / "store.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="is damaged"):
        ranker.prepare_store(tmp_path, DOCUMENTS)


def test_several_that_begin_one_store_at_once_share_it(ranker, tmp_path):
    fingerprint, dtype = ranker.engine.fingerprint, ranker.dtype
    for attempt in range(20):
        barrier, stores = threading.Barrier(4), []

        def begin(folder=tmp_path / str(attempt), barrier=barrier, stores=stores):
            barrier.wait()
            stores.append(StateStore(folder, fingerprint, dtype))

        threads = [threading.Thread(target=begin) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(stores) == 4
    states = list(ranker.engine.document_states(["sugar", "salt"], dtype))
    for store in stores:
        store.append(["sugar", "salt"], states)
    assert len(list(stores[0].folder.glob("group-*"))) == 1


def test_a_text_that_was_cut_as_a_title_is_split_as_a_text_all_the_same(folder, tmp_path):
    options = {"dtype": "float32", "max_document_tokens": 40, "long_documents": "split"}
    title = "sugar liver artery " * 30
    ranker = BlockRankReranker.from_pretrained(folder, **options)
    titled, plain = {"title": title.strip(), "text": "aspirin"}, f"{title}aspirin"
    expected = ranker.rank(QUERIES[0], [plain])
    assert expected[0].passage is not None
    assert ranker.rank(QUERIES[0], [titled])[0].truncated
    cached = BlockRankReranker.from_pretrained(folder, cache="10MB", **options)
    cached.rank(QUERIES[0], [titled])
    assert_same(cached.rank(QUERIES[0], [plain]), expected)
    ranker.prepare_store(tmp_path, [titled])
    ranker.prepare_store(tmp_path, [plain])
    stored = BlockRankReranker.from_pretrained(folder, store=tmp_path, **options)
    assert_same(stored.rank(QUERIES[0], [plain]), expected)


def test_a_full_disk_leaves_what_was_there(ranker, tmp_path, monkeypatch):
    ranker.prepare_store(tmp_path, DOCUMENTS[:2])

    def full(tensors, path):
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr("blockrank_rerank.states.store.save_file", full)
        with pytest.raises(OSError, match="No space left") as refused:
            ranker.prepare_store(tmp_path, DOCUMENTS)
    assert (refused.value.errno, refused.value.filename) == (errno.ENOSPC, str(tmp_path))
    assert not list(tmp_path.glob("*.unfinished"))
    assert ranker.prepare_store(tmp_path, DOCUMENTS).found == 2


def test_a_document_that_is_too_long_is_named_by_its_place_in_the_corpus(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(store_preparation, "LOOK_AHEAD", 4)
    strict = BlockRankReranker.from_pretrained(folder, max_document_tokens=20, long_documents="error")
    with pytest.raises(ValueError, match=r"documents\[9\] has \d+ tokens"):
        strict.prepare_store(tmp_path, ["sugar"] * 9 + ["sugar " * 40])


def test_threads_read_one_store_at_once(ranker, folder, tmp_path):
    ranker.prepare_store(tmp_path, DOCUMENTS)
    stored = BlockRankReranker.from_pretrained(folder, dtype="float32", store=tmp_path)
    expected, failures = ranker.rank(QUERIES[0], DOCUMENTS), []

    def work():
        try:
            for _ in range(5):
                assert_same(stored.rank(QUERIES[0], DOCUMENTS), expected)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_pickled_ranker_finds_its_store_again(ranker, folder, tmp_path):
    ranker.prepare_store(tmp_path, DOCUMENTS)
    stored = pickle.loads(pickle.dumps(BlockRankReranker.from_pretrained(folder, dtype="float32", store=tmp_path)))
    assert_same(stored.rank(QUERIES[0], DOCUMENTS), ranker.rank(QUERIES[0], DOCUMENTS))


def test_the_command_prepares_a_corpus_and_rerank_uses_it(folder, tmp_path, capsys):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(["sugar", "aspirin thins the blood", "the liver"]), encoding="utf-8")
    model = ["--model", str(folder), "--dtype", "float32"]
    assert main(["prepare", str(corpus), str(tmp_path / "store"), *model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prepared"] == 3
    assert main(["prepare", str(corpus), str(tmp_path / "store"), *model]) == 0
    assert "0 blocks prepared, 3 were there" in capsys.readouterr().out
    rankings = []
    for options in ([], ["--store", str(tmp_path / "store")]):
        assert main(["rerank", "what thins the blood", str(corpus), *model, "--json", *options]) == 0
        rankings.append([record["text"] for record in json.loads(capsys.readouterr().out)])
    assert rankings[0] == rankings[1]
    assert main(["prepare", str(corpus), str(tmp_path / "store"), *model, "--states", "int8"]) == 2
    assert "holds states in float32, not int8" in capsys.readouterr().err
    assert main(["prepare", str(corpus), str(tmp_path), *model]) == 2
    assert "neither a store" in capsys.readouterr().err


survives_kills = pytest.mark.filterwarnings(
    "error",  # a damaged group is reported by one
    "ignore:This process:DeprecationWarning",  # Python warns of forks beside threads
)


def prepare_in_a_child(ranker, store, begin=lambda: None):
    """Fork a child that fills a store until it is killed; return its number, and what says how many tokens it keeps."""
    ranker.rank("it", ["sugar"])
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            begin()
            store_preparation.GROUP_BYTES = 4_000
            texts = (f"sugar blood liver {n}" for n in range(100_000))
            ranker.prepare_store(store, texts, on_progress=lambda _, tokens: os.write(writing, b"%d\n" % tokens))
        finally:
            os._exit(1)
    os.close(writing)
    return child, os.fdopen(reading)


def die_in_the_third_file():
    written = []

    def torn(tensors, path):
        save_file(tensors, path)
        written.append(path)
        if len(written) == 3:
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    store_module.save_file = torn


@survives_kills
def test_a_kill_in_the_middle_of_a_file_leaves_the_groups_before_it(ranker, tmp_path):
    child, reports = prepare_in_a_child(ranker, tmp_path, begin=die_in_the_third_file)
    with reports:
        reported = sum(map(int, reports))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    store = open_store(ranker, tmp_path)
    assert len(list(tmp_path.glob("group-*.safetensors"))) == 2
    assert tokens_of(store) == reported
    assert ranker.prepare_store(tmp_path, ["sugar blood liver 0", "new"])[:2] == (1, 1)
    assert not list(tmp_path.glob("*.unfinished"))


def tokens_of(store) -> int:
    """Of all documents of a store, which begins with the first ones of the corpus; every one is read."""
    return sum(len(store.get(f"sugar blood liver {number}").ids) for number in range(len(store)))


@survives_kills
def test_kill_at_random_moments_loses_at_most_the_group_in_flight(ranker, tmp_path):
    rng = random.Random(0)
    before = reported = 0
    # Each run goes on with the store that the killed one left.
    for number in range(KILLS):
        child, reports = prepare_in_a_child(ranker, tmp_path)
        with reports:
            if number == 0:
                reported += int(reports.readline())  # however slow the machine is
            time.sleep(rng.uniform(0, 0.5))
            os.kill(child, signal.SIGKILL)
            reported += sum(map(int, reports))
        os.waitpid(child, 0)
        store = open_store(ranker, tmp_path)
        assert len(store) >= before
        before = len(store)
        assert tokens_of(store) >= reported
    done = ranker.prepare_store(tmp_path, (f"sugar blood liver {n}" for n in range(before + 3)))
    assert (done.prepared, done.found) == (3, before)


KILLS = int(os.environ.get("BLOCKRANK_TEST_KILLS", "5"))
"""50 with BLOCKRANK_TEST_KILLS=50."""


def test_groups_are_cut_by_bytes(ranker, tmp_path, monkeypatch):
    monkeypatch.setattr(store_preparation, "GROUP_BYTES", 1)
    ranker.prepare_store(tmp_path, DOCUMENTS)
    assert len(list(tmp_path.glob("group-*"))) == UNIQUE
