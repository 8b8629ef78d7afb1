"""Nothing asks the network where it may not: not of folders, and not of Hub ids under the offline options."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from blockrank_rerank import BlockRankCrossEncoder, BlockRankReranker
from blockrank_rerank.cli.app import main
from blockrank_rerank.cli.finetune import main as finetune_main
from blockrank_rerank.model.checkpoint import Checkpoint
from blockrank_rerank.model.scoring_head import ScoringHead
from tests.tiny_models import BERT_CONFIG, CONFIG, save_lora, save_model

COMMIT = "a" * 40
DOCUMENTS = ["the liver stores sugar", "aspirin thins the blood"]
SPY = """
import socket, sys
def refuse(*address, **_):
    print("asked", address, file=sys.stderr)
    raise socket.gaierror(-2, "no network")
socket.getaddrinfo = socket.socket.connect = refuse
from blockrank_rerank.cli.app import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    CONFIG.save(save_model(folder / "llama", "llama"))
    BERT_CONFIG.save(save_model(folder / "bert", "bert"))
    ScoringHead(32).save(folder / "bert")
    save_lora(folder / "adapter", folder / "llama", "acme/llama")
    return folder


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """What was looked up, or connected to; it is refused."""
    asked = []

    def refuse(*address, **_):
        asked.append(address)
        raise socket.gaierror(-2, "no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    # What would be waited between attempts counts as asking too.
    monkeypatch.setattr("time.sleep", lambda seconds: asked.append(seconds))
    yield asked
    assert asked == []


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The local cache of the Hub, empty."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def offline(monkeypatch):
    """As HF_HUB_OFFLINE=1 is read, when a process starts."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def put(cache: Path, name: str, folder: Path) -> str:
    """Lay a folder into the cache, as if it had been fetched from the Hub."""
    place = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / COMMIT)
    (place / "refs").mkdir()
    (place / "refs/main").write_text(COMMIT)
    return name


def rank(model, **options):
    return BlockRankReranker.from_pretrained(model, device="cpu", dtype="float32", **options).rank("who", DOCUMENTS)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_a_folder_is_read_without_the_network_whatever_the_options(folders, name):
    assert rank(folders / name) == rank(folders / name, local_files_only=True)


@pytest.fixture
def hub(monkeypatch, cache, tmp_path):
    """A Hub that holds what lies in a folder; what was fetched of it, call by call, with the revision."""
    remote, fetched = tmp_path / "remote", []

    def snapshot_download(name, *, allow_patterns, revision, local_files_only, token):
        place = cache / f"models--{name.replace('/', '--')}/snapshots" / COMMIT
        place.mkdir(parents=True, exist_ok=True)
        names = [
            path.name for path in remote.iterdir() if any(fnmatch(path.name, pattern) for pattern in allow_patterns)
        ]
        for path in names:
            shutil.copy(remote / path, place)
        fetched.append((revision, set(names)))
        return str(place)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return remote, fetched


def test_weights_are_fetched_when_they_are_needed_and_of_the_commit_that_the_rest_is_of(folders, hub):
    remote, fetched = hub
    shutil.copytree(folders / "bert", remote)
    for other in ("pytorch_model.bin", "model.onnx", "README.md", "code.py"):
        (remote / other).write_bytes(b"not wanted")
    ranker = BlockRankReranker.from_pretrained("acme/bert", revision="v2", device="cpu", dtype="float32")
    assert ranker.config == BERT_CONFIG
    small = {"blockrank_config.json", "config.json", "tokenizer.json", "tokenizer_config.json"}
    assert fetched == [("v2", small)]
    assert ranker.rank("who", DOCUMENTS) == rank(folders / "bert")
    assert fetched[1:] == [(COMMIT, {"model.safetensors"}), (COMMIT, {"scoring_head.safetensors"})]


def test_weights_in_several_files_are_fetched_by_their_index(folders, hub):
    remote, fetched = hub
    shutil.copytree(folders / "llama", remote)
    (remote / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(folders / "llama").save_pretrained(remote, max_shard_size="40KB")
    assert rank("acme/llama") == rank(folders / "llama")
    shards = {path.name for path in remote.glob("model-*.safetensors")}
    assert fetched[1:] == [(COMMIT, shards)]


def test_code_is_fetched_only_where_it_may_run(folders, hub):
    remote, fetched = hub
    shutil.copytree(folders / "llama", remote)
    (remote / "code.py").write_text("1 / 0")
    for trusted in (False, True):
        _ = Checkpoint(model="acme/llama", trust_remote_code=trusted).folder
        assert ("code.py" in fetched[-1][1]) == trusted


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_a_cached_model_ranks_as_its_folder_does(folders, cache, name):
    assert rank(put(cache, f"acme/{name}", folders / name), local_files_only=True) == rank(folders / name)


def test_a_cached_model_ranks_under_the_hubs_own_variable(folders, cache, offline):
    assert rank(put(cache, "acme/llama", folders / "llama")) == rank(folders / "llama")
    assert rank("acme/llama", revision=COMMIT) == rank(folders / "llama")


def test_a_branch_that_is_not_cached_is_refused(folders, cache):
    put(cache, "acme/llama", folders / "llama")
    with pytest.raises(FileNotFoundError, match="is not in the local cache"):
        rank("acme/llama", revision="other", local_files_only=True)


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors", "scoring_head.safetensors"])
def test_a_model_that_is_cached_in_part_says_what_is_missing(folders, cache, missing):
    put(cache, "acme/bert", folders / "bert")
    (cache / "models--acme--bert/snapshots" / COMMIT / missing).unlink()
    with pytest.raises((FileNotFoundError, ValueError), match=missing):
        rank("acme/bert", local_files_only=True)


def test_a_model_that_is_not_cached_is_refused_at_once(cache):
    with pytest.raises(FileNotFoundError, match=r"'acme/none'.* is not in the local cache of the Hub"):
        rank("acme/none", local_files_only=True)


def test_a_model_that_is_not_cached_is_refused_at_once_under_the_hubs_own_variable(cache, offline):
    with pytest.raises(FileNotFoundError, match=r"'acme/none'.* is not in the local cache of the Hub"):
        rank("acme/none")


def test_a_pickled_checkpoint_forgets_where_its_files_were(folders, cache):
    checkpoint = Checkpoint(model=put(cache, "acme/llama", folders / "llama"), local_files_only=True)
    assert checkpoint.folder.name == COMMIT
    assert checkpoint.__getstate__().keys() == {"model", "revision", "local_files_only", "trust_remote_code", "token"}


def test_an_adapter_of_the_hub_is_read_over_its_base(folders, cache):
    put(cache, "acme/llama", folders / "llama")
    put(cache, "acme/adapter", folders / "adapter")
    ranked = rank("acme/adapter", local_files_only=True)
    assert ranked == rank(folders / "adapter")
    assert ranked != rank(folders / "llama")


def test_a_folder_of_an_adapter_never_fetches_its_base(folders, cache):
    with pytest.raises(FileNotFoundError, match=r"the base 'acme/llama' of the adapter .*: hf download acme/llama"):
        rank(folders / "adapter")


def test_adapters_for_frameworks_hand_the_option_on(folders, cache):
    put(cache, "acme/llama", folders / "llama")
    encoder = BlockRankCrossEncoder("acme/llama", local_files_only=True, device="cpu", dtype="float32")
    assert len(encoder.predict([("who", text) for text in DOCUMENTS])) == 2
    with pytest.raises(FileNotFoundError, match="is not in the local cache"):
        BlockRankCrossEncoder("acme/none", local_files_only=True, device="cpu").predict([("who", "what")])


def test_the_command_line_hands_the_option_on(folders, cache, tmp_path, capsys):
    put(cache, "acme/llama", folders / "llama")
    (tmp_path / "documents.txt").write_text("\n".join(DOCUMENTS))
    words = ["rerank", "who", str(tmp_path / "documents.txt"), "--local-files-only", "--model"]
    assert main([*words, "acme/llama"]) == 0
    assert main([*words, "acme/none"]) == 4
    assert "is not in the local cache" in capsys.readouterr().err


def test_a_tokenizer_is_read_from_folder_and_cache(folders, cache, offline, training_data, capsys):
    put(cache, "acme/llama", folders / "llama")
    for model in (str(folders / "llama"), "acme/llama"):
        assert finetune_main(["validate-data", str(training_data), "--token-cap", "9", "--tokenizer", model]) == 0
    assert finetune_main(["validate-data", str(training_data), "--token-cap", "9", "--tokenizer", "acme/none"]) == 4


@pytest.fixture
def training_data(tmp_path):
    rows = [{"query": text.split()[1], "pos": [text], "neg": ["who"]} for text in DOCUMENTS]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "train.jsonl"


@pytest.fixture(scope="module")
def embedding_model(folders):
    library = pytest.importorskip("sentence_transformers")
    library.SentenceTransformer(str(folders / "bert"), device="cpu").save(str(folders / "embedding"))
    (folders / "embedding/blockrank_config.json").unlink(missing_ok=True)
    return folders / "embedding"


def mine(data, teacher):
    output = data.with_name("mined.jsonl")
    words = ["mine-negatives", str(data), "--output", str(output), "--teacher", str(teacher), "--device", "cpu"]
    return finetune_main(words)


def test_a_teacher_in_a_folder_is_read_without_the_network(embedding_model, training_data, capsys):
    assert mine(training_data, embedding_model) == 0
    assert "Loading weights" not in capsys.readouterr().err


def test_a_teacher_is_read_from_the_cache_or_refused_at_once(embedding_model, cache, offline, training_data, capsys):
    assert mine(training_data, put(cache, "acme/embedding", embedding_model)) == 0
    assert mine(training_data, "acme/none") == 4
    assert "is not in the local cache" in capsys.readouterr().err


def test_fine_tuning_reads_its_base_from_folder_and_cache(folders, cache, offline, training_data, tmp_path, capsys):
    pytest.importorskip("accelerate")
    put(cache, "acme/llama", folders / "llama")
    words = [f"data={training_data}", "steps=1", "lists_per_step=1", "documents_per_list=2", "device=cpu"]
    for number, model in enumerate((folders / "llama", "acme/llama")):
        assert finetune_main(["train", *words, f"output={tmp_path / str(number)}", f"model={model}"]) == 0
    assert finetune_main(["train", *words, f"output={tmp_path / 'none'}", "model=acme/none"]) == 4


def test_a_process_with_the_hubs_variable_asks_nobody(folders, tmp_path):
    """A whole process, imports included."""
    put(tmp_path / "home/hub", "acme/llama", folders / "llama")
    done = subprocess.run(
        [sys.executable, "-c", SPY, "rerank", "who", "-", "--model", "acme/llama"],
        input="\n".join(DOCUMENTS), capture_output=True, text=True, check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")},
    )  # fmt: skip
    assert "asked" not in done.stderr
    assert done.returncode == 0, done.stderr
