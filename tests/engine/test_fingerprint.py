"""Fingerprints tell models apart, the same on every device, without copying the weights of a large one to the host."""

from __future__ import annotations

import weakref
from dataclasses import fields, replace

import pytest
import torch

from blockrank_rerank import BlockRankConfig, BlockRankReranker, PromptTemplate
from blockrank_rerank.engine import fingerprint as fingerprints
from blockrank_rerank.states import digest
from blockrank_rerank.states.digest import tensor_sums
from tests.pretend_gpu import pretend_gpu
from tests.states.test_prepared import save_ranker
from tests.tiny_models import BERT_CONFIG, CONFIG, save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    saved = save_model(tmp_path_factory.mktemp("llama"), "llama")
    CONFIG.save(saved)
    return saved


def fingerprint(folder, device="cpu", dtype="float32"):
    return BlockRankReranker.from_pretrained(folder, device=device, dtype=dtype, attention="sdpa").engine.fingerprint


def sums(tensor):
    return b"".join(tensor_sums("weight", tensor))


@pytest.mark.parametrize("largest", [0, 1 << 30], ids=["large", "small"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_has_one_fingerprint_on_every_device(folder, monkeypatch, largest, dtype):
    monkeypatch.setattr(fingerprints, "LARGEST_COPIED", largest)
    expected = fingerprint(folder, dtype=dtype)
    with pretend_gpu() as gpu:
        assert fingerprint(folder, gpu, dtype) == expected


def test_what_is_copied_of_a_large_model_is_little(folder, monkeypatch):
    monkeypatch.setattr(fingerprints, "LARGEST_COPIED", 0)
    copied, cpu = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: copied.append(tensor.nbytes) or cpu(tensor))
    engine = BlockRankReranker.from_pretrained(folder, device="cpu", dtype="float32").engine
    assert engine.fingerprint
    assert sum(copied) == 8 * len([*engine.backbone.parameters()])


@pytest.mark.parametrize("largest", [0, 1 << 30], ids=["large", "small"])
def test_in_another_dtype_weights_are_digested_one_at_a_time(folder, monkeypatch, largest):
    monkeypatch.setattr(fingerprints, "LARGEST_COPIED", largest)
    engine, made, most = BlockRankReranker.from_pretrained(folder, device="cpu", dtype="float32").engine, [], []

    def watched(parts):
        def watch(name, tensor):
            made.append(weakref.ref(tensor))
            most.append(sum(one() is not None for one in made))
            yield from parts(name, tensor)

        return watch

    for name in ("tensor_bytes", "tensor_sums"):
        monkeypatch.setattr(fingerprints, name, watched(getattr(fingerprints, name)))
    fingerprints.base_fingerprint(engine.config, engine.prompt, engine.backbone, torch.bfloat16)
    assert len(made) == len([*engine.backbone.parameters()])
    assert max(most) <= 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.float64])
def test_any_change_of_a_weight_changes_its_sums(monkeypatch, dtype):
    monkeypatch.setattr(digest, "SUMMED", 4)
    weight = torch.arange(50, dtype=torch.float32).to(dtype)
    seen = {sums(weight), sums(weight.reshape(5, 10))}
    for index in range(50):
        changed = weight.clone()
        changed[index] += 1
        seen.add(sums(changed))
    for one, other in [(0, 1), (0, 20), (3, 49)]:
        swapped = weight.clone()
        swapped[[one, other]] = weight[[other, one]]
        seen.add(sums(swapped))
    assert len(seen) == 2 + 50 + 3
    assert sums(weight) == sums(weight.clone())


def test_sums_of_a_view_and_of_nothing_are_those_of_its_values():
    weight = torch.randn(8, 6)
    assert sums(weight.T) == sums(weight.T.contiguous())
    assert sums(weight.flatten()[1:]) == sums(weight.flatten()[1:].clone())
    assert sums(torch.empty(0, 3)) == b"weight torch.float32 [0, 3]" + bytes(8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_signs_do_not_cancel_in_the_sums(dtype):
    weights = torch.randn(64, 64).to(dtype)
    flipped = weights.clone()
    flipped[:, [1, 3]] *= -1
    assert sums(weights) != sums(flipped)
    flipped = weights.clone()
    flipped[5, 7], flipped[9, 11] = -flipped[5, 7], -flipped[9, 11]
    assert sums(weights) != sums(flipped)


# What states depend on

LONG = "the liver stores sugar and aspirin thins blood " * 4
DOCUMENTS = ["a heart attack is a blocked artery", "", {"title": "sugar", "text": LONG}]
QUERY_FREE = replace(CONFIG, prompt=CONFIG.prompt.without_query(), long_documents="split", reduction="softmax_of_mean")

CHANGES = {
    "scoring_layer": (3, True),
    "scoring_head": None,
    "heads": ((0, 3), False),
    "signal_tokens": ("all", False),
    "reduction": ("mean_of_softmax", False),
    "abstention": (True, False),
    "query_offset": (100, False),
    "content_free_query": ("N/A", False),
    "answerability": ((0.0, 1.0, 1.0, 0.0), False),
    "query_documents_from_layer": (1, True),
    "max_document_tokens": (12, True),
    "long_documents": ("truncate", True),
    "version": None,
    "prompt.instruction": ("Texts:", True),
    "prompt.query_free_instruction": ("Nothing here is read:", False),
    "prompt.document": ("\n{text} |", True),
    "prompt.query": (" What of these? {query}", False),
    "prompt.answer": ("So: ", False),
    "prompt.answer_start": ("(", False),
    "prompt.chat": None,
}
"""Each setting with another value, and whether states of documents differ by it.

Without one are those that cannot be changed alone here: no decoder has a scoring head, the format has one version, and
a chat template that begins a prompt is told apart by a test of its own.
"""


def changed(config, name, value):
    part = name.removeprefix("prompt.")
    changes = {part: value} if part == name else {"prompt": replace(config.prompt, **{part: value})}
    return replace(config, **changes)


def states_of(ranker):
    return [(states.ids, states.truncated, states.tensors) for states in ranker.prepare(DOCUMENTS).states]


def equal_to_the_bit(some, others):
    return len(some) == len(others) and all(
        (ids, truncated, [*tensors]) == (other_ids, other_truncated, [*other_tensors])
        and all(torch.equal(tensor, other_tensors[name]) for name, tensor in tensors.items())
        for (ids, truncated, tensors), (other_ids, other_truncated, other_tensors) in zip(some, others, strict=True)
    )


def test_every_setting_of_a_config_is_in_the_table():
    settings = {item.name for item in fields(BlockRankConfig)} - {"prompt"}
    assert settings | {f"prompt.{item.name}" for item in fields(PromptTemplate)} == set(CHANGES)


@pytest.mark.parametrize("name", [name for name, change in CHANGES.items() if change])
def test_a_setting_is_in_the_fingerprint_if_states_depend_on_it(folder, name):
    value, has_effect = CHANGES[name]
    before = BlockRankReranker.from_pretrained(folder, dtype="float32", config=QUERY_FREE)
    after = BlockRankReranker.from_pretrained(folder, dtype="float32", config=changed(QUERY_FREE, name, value))
    assert equal_to_the_bit(states_of(after), states_of(before)) is not has_effect
    assert (after.engine.fingerprint == before.engine.fingerprint) is not has_effect


def test_a_setting_that_is_not_known_to_have_no_effect_counts(folder):
    told = BlockRankReranker.from_pretrained(folder, dtype="float32", config=QUERY_FREE).engine.settings
    without = {name for name, change in CHANGES.items() if change and not change[1]} | {"version"}
    assert without == fingerprints.SETTINGS_WITHOUT_EFFECT
    assert set(CHANGES) - without <= set(told)
    assert not without & set(told)


def test_of_a_scoring_head_what_reads_documents_is_in_the_fingerprint_and_nothing_else(tmp_path):
    ranker = BlockRankReranker.from_pretrained(save_ranker(tmp_path, "bert", BERT_CONFIG), dtype="float32")
    engine = ranker.engine
    before, expected = fingerprints.fingerprint(engine.config, engine.prompt, engine.backbone), states_of(ranker)
    for name, parameter in engine.backbone.head.named_parameters():
        with torch.no_grad():
            parameter.add_(0.5)
        has_effect = not equal_to_the_bit(states_of(ranker), expected)
        assert has_effect is (name == "key.weight")
        assert (fingerprints.fingerprint(engine.config, engine.prompt, engine.backbone) != before) is has_effect
        with torch.no_grad():
            parameter.sub_(0.5)
