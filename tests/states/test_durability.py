"""What is written stays, whatever happens next, and what is damaged costs itself alone."""

from __future__ import annotations

import os
import re
import secrets
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file

from blockrank_rerank.engine import fingerprint as fingerprints
from blockrank_rerank.errors import DataError
from blockrank_rerank.states import manifest
from blockrank_rerank.states import spill as spilled_states
from blockrank_rerank.states.cache import StateCache
from blockrank_rerank.states.document_states import SCALE, DocumentStates, compress
from blockrank_rerank.states.group_files import group_path
from blockrank_rerank.states.manifest import LOCK_NAME, MANIFEST_NAME
from blockrank_rerank.states.spill import spill
from blockrank_rerank.states.store import StateStore
from blockrank_rerank.system.files import replacing
from tests.tiny_models import CONFIG


def states_of(tokens=3, width=8):
    tensors = {"0.key": torch.randn(tokens, 2, width), "0.value": torch.randn(tokens, 2, width)}
    return DocumentStates(tuple(range(tokens)), False, tensors)


@pytest.fixture
def store(tmp_path):
    return StateStore(tmp_path / "store", "print", torch.float32)


@pytest.fixture
def events(monkeypatch):
    """What is synced and what is moved, in order."""
    found, sync, replace = [], os.fsync, Path.replace

    def name_of(descriptor):
        return Path(os.readlink(f"/proc/self/fd/{descriptor}")).name

    monkeypatch.setattr(os, "fsync", lambda descriptor: (found.append(("sync", name_of(descriptor))), sync(descriptor)))
    monkeypatch.setattr(
        Path, "replace", lambda path, target: (found.append(("move", Path(target).name)), replace(path, target))[1]
    )
    return found


needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs the names of open files")


@needs_proc
def test_a_replaced_file_is_on_the_disk_before_it_is_moved_and_its_folder_afterwards(tmp_path, events):
    with replacing(tmp_path / "run.trec") as file:
        file.write("x")
    moved = events.index(("move", "run.trec"))
    assert [kind for kind, _ in events] == ["sync", "move", "sync"]
    assert events[moved - 1][1].startswith(".run.trec.")
    assert events[moved + 1] == ("sync", tmp_path.name)


@needs_proc
def test_manifest_and_groups_of_a_store_are_synced_with_their_folder(tmp_path, events):
    store = StateStore(tmp_path / "store", "print", torch.float32)
    store.append(["a"], [states_of()])
    unfinished = {
        "store.json": r"\.store\.json\.\w+\.tmp",
        "group-000000.safetensors": r"group-000000\.unfinished",
    }
    for name, before in unfinished.items():
        moved = events.index(("move", name))
        kind, synced = events[moved - 1]
        assert kind == "sync"
        assert re.fullmatch(before, synced)
        assert events[moved + 1] == ("sync", "store")


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="this system has no links")
def test_links_planted_under_temporary_names_are_not_written_through(tmp_path, store, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".run.trec.0.tmp").symlink_to(victim)
    with monkeypatch.context() as guessed:
        guessed.setattr(secrets, "token_hex", lambda size: "0")
        with pytest.raises(FileExistsError), replacing(tmp_path / "run.trec") as file:
            file.write("y")
    with replacing(tmp_path / "run.trec") as file:
        file.write("x")
    group_path(store.folder, 0).with_suffix(".unfinished").symlink_to(victim)
    store.append(["a"], [states_of()])
    assert victim.read_text() == "precious"
    assert (tmp_path / "run.trec").read_text() == "x"
    assert store.get("a") is not None


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="this system has no links")
@pytest.mark.parametrize("dangling", [False, True])
@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.append(["a"], [states_of()]),
        lambda store: store.set_damaged_aside(),
        lambda store: StateStore(store.folder.with_name("new"), "print", torch.float32),
    ],
    ids=["append", "set-aside", "begin"],
)
def test_a_lock_that_is_a_link_is_not_followed(tmp_path, store, use, dangling):
    victim = tmp_path / "victim"
    if not dangling:
        victim.write_text("precious")
    for folder in (store.folder, tmp_path / "new"):
        folder.mkdir(exist_ok=True)
        (folder / LOCK_NAME).unlink(missing_ok=True)
        (folder / LOCK_NAME).symlink_to(victim)
    with pytest.raises(ValueError, match=f"{LOCK_NAME} to be a lock that this program makes, got a link; remove it"):
        use(store)
    assert victim.exists() is not dangling
    assert dangling or victim.read_text() == "precious"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_manifest_that_is_a_pipe_is_refused(store):
    (store.folder / MANIFEST_NAME).unlink()
    os.mkfifo(store.folder / MANIFEST_NAME)
    with pytest.raises(DataError, match="expected a file of a store's settings, got a pipe"):
        StateStore(store.folder, "print")


def test_appending_waits_for_the_file_lock(store):
    done = threading.Event()
    thread = threading.Thread(target=lambda: (store.append(["a"], [states_of()]), done.set()))
    with FileLock(store.folder / LOCK_NAME):
        thread.start()
        assert not done.wait(0.5)
        assert "a" not in store
    assert done.wait(120)
    thread.join()
    assert "a" in store


def test_a_long_wait_for_another_process_is_said(store, monkeypatch):
    monkeypatch.setattr(manifest, "LONG_WAIT_S", 0.05)
    held, done = threading.Event(), threading.Event()

    def hold():
        with FileLock(store.folder / LOCK_NAME):
            held.set()
            done.wait(0.3)

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    with pytest.warns(UserWarning, match="another process is writing to the store .*: waiting until it has finished"):
        store.append(["a"], [states_of()])
    other.join()
    assert "a" in store
    store.append(["b"], [states_of()])  # the lock is free again
    assert "b" in store


def spoil_names(path):
    save_file({"x": torch.zeros(1)}, path)


def spoil_digests(path):
    save_file(load_file(path) | {"digests": torch.full((1, 16), 300)}, path)


def spoil_offsets(path):
    save_file(load_file(path) | {"offsets": torch.zeros(7, dtype=torch.int64)}, path)


def spoil_shape(path):
    save_file(load_file(path) | {"offsets": torch.zeros((2, 2, 2))}, path)


def make_folder(path):
    path.unlink()
    path.mkdir()


def make_pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff" * 100),
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        spoil_names,
        spoil_digests,
        spoil_offsets,
        spoil_shape,
        make_folder,
        pytest.param(make_pipe, marks=pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")),
    ],
)
def test_a_damaged_group_costs_its_own_documents_alone(store, spoil):
    for text in ("a", "b"):
        store.append([text], [states_of()])
    spoil(group_path(store.folder, 0))
    with pytest.warns(UserWarning, match=r"group-000000.safetensors is damaged and left out"):
        opened = StateStore(store.folder, "print")
    assert ("a" in opened, "b" in opened) == (False, True)
    assert opened.get("b") is not None
    with pytest.warns(UserWarning, match="damaged"):
        again = StateStore(store.folder, "print", torch.float32)
    again.set_damaged_aside()
    again.append(["a"], [states_of()])
    assert StateStore(store.folder, "print").get("a") is not None


@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_cache_counts_the_bytes_of_what_is_replaced_once(times):
    cache, states = StateCache(10**6), states_of()
    for _ in range(times):
        cache.put("a", states)
    assert (cache.info().documents, cache.info().nbytes) == (1, states.nbytes)
    cache.put("a", states_of(tokens=5))
    assert cache.info().nbytes == states_of(tokens=5).nbytes


@pytest.mark.parametrize(
    ("uses", "kept"),
    [
        ("put a, put b, put c", "bc"),
        ("put a, put b, get a, put c", "ac"),
        ("put a, put b, put a, put c", "ac"),
        ("put a, put b, holds_whole a, put c", "bc"),
        ("put a, put b, put c, put d", "cd"),
    ],
)
def test_a_full_cache_takes_up_what_is_new_and_drops_what_was_used_longest_ago(uses, kept):
    cache = StateCache(2 * states_of().nbytes)
    for use in uses.split(", "):
        name, text = use.split()
        getattr(cache, name)(text, *([states_of()] if name == "put" else []))
    assert [text for text in "abcd" if cache.holds_whole(text)] == [*kept]


@pytest.mark.parametrize("size", [1e-2, 1.0, 50.0])
def test_eight_bits_are_divided_by_the_scale_that_is_kept(size):
    tensor = size * torch.randn(400, 4, 64, generator=torch.Generator().manual_seed(0))
    kept = compress({"k": tensor}, torch.int8)
    scale = kept["k" + SCALE].float()[..., None]
    error = (kept["k"].float() * scale - tensor).abs() / scale
    assert float(error.max()) <= 0.501  # dividing by the scale before it was rounded costs up to 0.56


def test_a_fingerprint_has_the_tokenizer_in_it(monkeypatch):
    monkeypatch.setattr(fingerprints, "_architecture", lambda backbone: "")
    backbone = SimpleNamespace(named_parameters=lambda **_: [])
    prints = {
        fingerprints.fingerprint(
            CONFIG, SimpleNamespace(tokenizer_digest=digest, beginning=beginning, longest_query=9), backbone
        )
        for digest in ("x", "y")
        for beginning in ("", "<s>")
    }
    assert len(prints) == 4


def test_spilled_states_have_no_name_once_they_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    states = [states_of(10) for _ in range(20)]
    with spill(states, 2_000, torch.float32) as parts:
        assert len(parts) > 5
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
        keys = torch.cat([part.get("0.key", torch.empty(0)) for part in parts])
    torch.testing.assert_close(keys, torch.cat([state.tensors["0.key"] for state in states]), rtol=0, atol=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP", "SIGKILL"])
@pytest.mark.parametrize("moment", ["while writing", "afterwards"])
def test_a_signal_leaves_no_states_behind(tmp_path, monkeypatch, number, moment):
    import signal

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    class Deadly:
        """A tensor that is not there when it is to be written."""

        shape, dtype = torch.Size([1]), torch.float32

        def cpu(self):
            os.kill(os.getpid(), getattr(signal, number))

    child = os.fork()
    if child == 0:
        signal.signal(getattr(signal, number), signal.SIG_DFL) if number != "SIGKILL" else None
        if moment == "while writing":
            spilled_states.save_file({"a": torch.ones(10**5), "b": Deadly()}, tmp_path / "0.states")
        else:
            with spill([states_of(10) for _ in range(20)], 2_000, torch.float32):
                os.kill(os.getpid(), getattr(signal, number))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -getattr(signal, number)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
