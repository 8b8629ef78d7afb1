"""A machine is measured once, and what was measured is kept."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.engine import machine_profile as profiles
from blockrank_rerank.engine.engine import Engine
from blockrank_rerank.engine.machine_profile import MachineProfile, machine_profile
from tests.pretend_gpu import GpuTensor, pretend_gpu
from tests.states.test_prepared import save_ranker
from tests.tiny_models import BERT_CONFIG


@pytest.fixture
def engine(tmp_path, own_assets):
    folder = tmp_path / "model"
    folder.mkdir()
    return BlockRankReranker.from_pretrained(save_ranker(folder, "bert", BERT_CONFIG), device="cpu").engine


@pytest.fixture
def measured(monkeypatch):
    """How often a machine was measured."""
    found, measure = [], profiles._measured
    monkeypatch.setattr(profiles, "_measured", lambda engine: found.append(measure(engine)) or found[-1])
    return found


def test_a_machine_is_measured_once_and_again_where_that_is_asked_for(engine, measured, own_assets, monkeypatch):
    first = machine_profile(engine)
    assert first.token_layer_s > 0
    assert first.layer_s >= 0
    assert first.read_s(10, 2) == pytest.approx(2 * first.layer_s + 20 * first.token_layer_s)
    assert machine_profile(engine) is first
    monkeypatch.setattr(profiles, "_profiles", {})  # another process
    assert machine_profile(engine) == first
    assert len(measured) == 1
    machine_profile(engine, anew=True)
    assert len(measured) == 2
    assert len([*own_assets.glob("*.json")]) == 1


def test_what_was_measured_in_another_way_is_measured_anew(engine, measured, own_assets, monkeypatch):
    machine_profile(engine)
    monkeypatch.setattr(profiles, "VERSION", profiles.VERSION + 1)
    machine_profile(engine)
    assert len(measured) == 2


def test_a_gpu_is_timed_until_its_numbers_are_there(tmp_path, own_assets, monkeypatch):
    folder = save_ranker(tmp_path, "bert", BERT_CONFIG)
    now, asked, score = [0.0], [0.0], Engine.score

    def ask(engine, batch):
        asked[0] += sum(request.num_tokens for request in batch.requests) * engine.config.scoring_layer * 1e-6
        return score(engine, batch)

    def wait(tensor):
        now[0], asked[0] = now[0] + asked[0], 0.0
        return tensor.held.tolist()

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(Engine, "score", ask)
    monkeypatch.setattr(GpuTensor, "tolist", wait)
    with pretend_gpu() as gpu:
        ranker = BlockRankReranker.from_pretrained(folder, device=gpu, dtype="float32", attention="sdpa")
        found = machine_profile(ranker.engine)
    assert found.token_layer_s == pytest.approx(1e-6)
    assert found.layer_s == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"layer_s": 0, "token_layer_s": NaN, "character_s": 0}',
        '{"layer_s": 0, "token_layer_s": 0, "character_s": 0}',
        '{"layer_s": "x", "token_layer_s": 1, "character_s": 0}',
    ],
)
def test_a_damaged_file_is_measured_anew(engine, measured, own_assets, monkeypatch, content):
    machine_profile(engine)
    (path,) = own_assets.glob("*.json")
    path.write_text(content)
    monkeypatch.setattr(profiles, "_profiles", {})
    machine_profile(engine)
    assert len(measured) == 2


def test_a_folder_that_cannot_be_written_costs_a_measurement_and_no_error(engine, measured, monkeypatch):
    def refuse(*names):
        raise PermissionError("read-only")

    monkeypatch.setattr("huggingface_hub.cached_assets_path", refuse)
    found = machine_profile(engine)
    assert machine_profile(engine) is found
    assert len(measured) == 1


def test_threads_have_profiles_of_their_own(engine, measured, set_threads, monkeypatch):
    monkeypatch.setattr(profiles, "_measured", lambda engine: MachineProfile(0.0, 1e-6, 0.0))
    machine_profile(engine)
    set_threads(2)
    machine_profile(engine)
    assert len(profiles._profiles) == 2


def test_gpus_of_two_kinds_have_profiles_of_their_own(own_assets, monkeypatch):
    monkeypatch.setattr(profiles, "_measured", lambda engine: MachineProfile(0.0, 1e-6, 0.0))
    monkeypatch.setattr(profiles, "_profiles", {})
    engine = SimpleNamespace(device=torch.device("cuda:0"), backbone=SimpleNamespace(attention="sdpa"), fingerprint="f")
    for name in ("NVIDIA L4", "NVIDIA H200", "NVIDIA L4"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        machine_profile(engine)
    assert len(profiles._profiles) == 2
