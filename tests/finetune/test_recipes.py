"""Settings that change what is trained, how it is chosen, and what is left when writing fails."""

from __future__ import annotations

import errno
import json
import re
import runpy
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.cli import app
from blockrank_rerank.cli.finetune import main
from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.finetune import finetune
from blockrank_rerank.finetune.batches import Collator, TrainingLists
from blockrank_rerank.finetune.data import read_examples
from blockrank_rerank.finetune.run_folder import COMPLETE
from blockrank_rerank.finetune.trainer import ListTrainer
from blockrank_rerank.finetune.training_data import TrainingData
from blockrank_rerank.finetune.training_model import TrainingModel
from blockrank_rerank.formats import DataError, read_collection
from blockrank_rerank.model.checkpoint import Checkpoint
from blockrank_rerank.model.families import position_limit
from blockrank_rerank.model.scoring_head import ScoringHead
from blockrank_rerank.text.prompt import PromptEncoder
from tests.finetune.runs import arguments, losses_of, settings
from tests.tiny_models import BERT_CONFIG, CONFIG

ROOT = Path(__file__).parents[2]


def changed(before, after) -> set[str]:
    """Names of the tensors that differ between two folders."""
    names = set()
    for file in ("model.safetensors", "scoring_head.safetensors"):
        old, new = load_file(before / file), load_file(after / file)
        names |= {name for name in new if not torch.equal(old[name], new[name])}
    return names


def test_a_frozen_backbone_stays_and_its_scoring_layer_learns(encoder, training_data, tmp_path):
    finetune(settings(encoder, training_data, tmp_path / "out", freeze_backbone=True))
    assert changed(encoder, tmp_path / "out") == {
        "query.weight",
        "key.weight",
        "log_temperature",
        "length_weight",
        "signal_weight",
    }


def test_an_encoder_can_be_trained_whose_query_sees_the_documents_below_its_scoring_layer(
    encoder, training_data, tmp_path
):
    seeing = BlockRankReranker.from_pretrained(encoder).with_config(query_documents_from_layer=1)
    seeing.save_pretrained(tmp_path / "start")
    finetune(settings(tmp_path / "start", training_data, tmp_path / "out", steps=2))
    ranker = BlockRankReranker.from_pretrained(tmp_path / "out", dtype="float32")
    assert ranker.config.query_documents_from_layer == 1
    alone, beside = (ranker.rank("heart", ["a blocked artery", *others]) for others in ([], ["sugar and snow"] * 3))
    # What the query has seen of the others changes how it looks at the first.
    assert abs(alone[0].raw_score - next(d.raw_score for d in beside if d.index == 0)) > 1e-3


def test_a_frozen_backbone_without_a_scoring_layer_is_refused(decoder, training_data, tmp_path):
    with pytest.raises(ValueError, match="freeze_backbone needs a model with an appended scoring layer"):
        finetune(settings(decoder, training_data, tmp_path / "out", freeze_backbone=True))
    with pytest.raises(ValueError, match="set lora_rank and language_model_weight to 0"):
        settings(decoder, training_data, tmp_path / "out", freeze_backbone=True, lora_rank=4)


def test_frozen_first_layers_stay_and_the_others_learn(encoder, training_data, tmp_path):
    finetune(settings(encoder, training_data, tmp_path / "out", frozen_layers=1))
    learnt = {name for name in changed(encoder, tmp_path / "out") if name.startswith(("embeddings.", "encoder."))}
    assert learnt
    assert not any(name.startswith(("embeddings.", "encoder.layer.0.")) for name in learnt)


def test_frozen_layers_that_leave_nothing_to_train_are_refused(encoder, training_data, tmp_path):
    with pytest.raises(ValueError, match="frozen_layers must leave one of the"):
        finetune(settings(encoder, training_data, tmp_path / "out", frozen_layers=99))
    with pytest.raises(ValueError, match="set freeze_backbone and lora_rank to 0"):
        settings(encoder, training_data, tmp_path / "out", frozen_layers=1, freeze_backbone=True)


def test_the_scoring_layers_vectors_have_a_learning_rate_of_their_own(encoder, training_data, tmp_path):
    finetune(settings(encoder, training_data, tmp_path / "out", learning_rate=0.0, head_learning_rate=1e-3))
    assert changed(encoder, tmp_path / "out") == {"log_temperature", "length_weight", "signal_weight"}


def test_the_scoring_layers_vectors_do_not_decay(encoder, training_data, tmp_path, monkeypatch):
    made, create = [], ListTrainer.create_optimizer

    def noted(self, *model):
        made.append(create(self, *model))
        return made[-1]

    monkeypatch.setattr(ListTrainer, "create_optimizer", noted)
    finetune(settings(encoder, training_data, tmp_path / "out", steps=1, weight_decay=0.1))
    *others, vectors = made[0].param_groups
    assert vectors["weight_decay"] == 0.0
    assert max(group["weight_decay"] for group in others) == 0.1


def test_calibrating_a_scoring_layer_changes_no_ranking(encoder, training_data, tmp_path):
    for name, weight in (("plain", 0.0), ("calibrated", 0.5)):
        finetune(
            settings(
                encoder,
                training_data,
                tmp_path / name,
                freeze_backbone=True,
                abstention_weight=weight,
                max_grad_norm=1e9,  # clipping is the one thing that the losses share
            )
        )
    assert changed(tmp_path / "plain", tmp_path / "calibrated") == {"nothing", "log_sharpness"}


def lists(data, share: float, count: int = 200) -> TrainingLists:
    return TrainingLists([read_examples(data)], settings("m", data, "o", query_free_share=share), count)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_query_is_left_out_of_the_instruction_of_a_share_of_the_lists(decoder, training_data, share):
    drawn = lists(training_data, share)
    free = [drawn[index].query_free for index in range(len(drawn))]
    assert sum(free) / len(free) == pytest.approx(share, abs=0.1)

    prompt = replace(CONFIG.prompt, query_free_instruction="Documents:")
    config = replace(CONFIG, prompt=prompt)
    without = replace(config, prompt=replace(prompt, instruction=prompt.query_free_instruction))
    checkpoint = Checkpoint(model=str(decoder))
    model_config = checkpoint.model_config()
    tokenizer, limit = checkpoint.tokenizer(model_config.vocab_size), position_limit(config, model_config)
    encoders = [PromptEncoder(tokenizer, prompted, limit) for prompted in (config, without)]
    collator = Collator(*encoders, config, with_answers=False)
    for index in range(10):
        layout = collator([drawn[index]])["layout"]
        start, end = layout.requests[0].instruction
        expected = encoders[int(drawn[index].query_free)].encode(drawn[index].query, ["x"]).instruction
        assert layout.input_ids[start:end].tolist() == expected


@pytest.fixture(scope="module")
def collection(tmp_path_factory, training_data):
    """The training data as a BEIR folder."""
    folder = tmp_path_factory.mktemp("beir")
    (folder / "qrels").mkdir()
    queries, corpus, qrels = [], [], ["query-id\tcorpus-id\tscore"]
    for number, line in enumerate(training_data.read_text().splitlines()):
        row = json.loads(line)
        queries.append({"_id": f"q{number}", "text": row["query"]})
        for rank, text in enumerate(row["pos"] + row["neg"]):
            corpus.append({"_id": f"d{number}-{rank}", "title": "", "text": text})
        qrels.append(f"q{number}\td{number}-0\t1")
    for name, records in (("queries", queries), ("corpus", corpus)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (folder / "qrels/dev.tsv").write_text("\n".join(qrels) + "\n")
    return folder


@pytest.mark.parametrize("family", ["encoder", "decoder"])
def test_evaluation_shows_the_first_stage_and_what_was_chosen(
    request, family, training_data, collection, tmp_path, capsys
):
    changes = {"lora_rank": 4, "temperature": 0.05, "learning_rate": 0.02} if family == "decoder" else {}
    evaluation = [{"path": str(collection), "queries": 20, "depth": 10}]
    model = request.getfixturevalue(family)
    result = finetune(
        settings(model, training_data, tmp_path / "out", steps=40, evaluate_every=20, evaluation=evaluation, **changes)
    )
    history = [json.loads(line) for line in (tmp_path / "out.training/evaluations.jsonl").read_text().splitlines()]
    assert [line["step"] for line in history] == [20, 40]
    assert result.after["mean_ndcg@10"] == max(line["mean_ndcg@10"] for line in history)
    assert result.after["mean_ndcg@10"] > result.before["mean_ndcg@10"]
    assert result.before["mean_first_stage_ndcg@10"] == result.after["mean_first_stage_ndcg@10"]
    after = result.after
    for measure, key in (("nDCG@10", "ndcg@10"), ("MRR@10", "mrr@10")):
        first, before = after[f"mean_first_stage_{key}"], result.before[f"mean_{key}"]
        row = f"| mean | {measure} | {first:.4f} | {before:.4f} | {after[f'mean_{key}']:.4f} |"
        assert row in (tmp_path / "out/README.md").read_text()
    out = capsys.readouterr().out
    assert f"chosen by its measures: step {after['step']}\n" in out
    for line in history:
        assert (
            f"step {line['step']}: mean nDCG@10 {line['mean_ndcg@10']:.4f} (first stage "
            f"{line['mean_first_stage_ndcg@10']:.4f}), mean MRR@10 {line['mean_mrr@10']:.4f} (first stage "
            f"{line['mean_first_stage_mrr@10']:.4f})"
        ) in out


def test_a_loss_that_becomes_nan_later_says_where_the_best_weights_are(
    encoder, collection, training_data, tmp_path, monkeypatch
):
    whole, passes = TrainingModel.forward, iter(range(12))

    def spoiled(model, **batch):
        parts = whole(model, **batch)
        return parts if next(passes, None) is not None else parts | {"loss": parts["loss"] * torch.nan}

    monkeypatch.setattr(TrainingModel, "forward", spoiled)
    changes = {"bf16": True, "evaluation": [str(collection)], "evaluate_every": 5}
    best = tmp_path / "out.training" / "best"
    message = f"nan at step 13;.* or with bf16 false,.* are in {re.escape(str(best))}"
    with pytest.raises(FloatingPointError, match=message):
        finetune(settings(encoder, training_data, tmp_path / "out", **changes))
    assert (tmp_path / "out.training" / "checkpoint-10" / COMPLETE).exists()
    assert BlockRankReranker.from_pretrained(best).rank("heart", ["a blocked artery"])


def test_evaluation_by_judgements_of_another_corpus_is_refused_before_training(
    encoder, training_data, collection, tmp_path
):
    other = tmp_path / "other"
    shutil.copytree(collection, other)
    (other / "corpus.jsonl").write_text('{"_id": "x", "title": "", "text": "snow melts"}\n')
    with pytest.raises(DataError, match=r"none of the \d+ relevant documents of split 'dev' is in corpus.jsonl"):
        finetune(settings(encoder, training_data, tmp_path / "out", evaluation=[{"path": str(other)}]))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", ["encoder", "decoder"])
def test_the_recipe_of_the_examples_runs_for_encoders_and_for_decoders_with_lora(
    request, family, training_data, collection, tmp_path, capsys
):
    changes = {
        "model": request.getfixturevalue(family),
        "data": training_data,
        "output": tmp_path / "out",
        "evaluation": f"[{{path: {collection}, queries: 20, depth: 10}}]",
        "steps": 8,
        "save_every": 4,
        "evaluate_every": 4,
        **({"lora_rank": 16, "temperature": 0.05} if family == "decoder" else {}),
    }
    recipe = ROOT / "examples/finetune_domain.yaml"
    assert main(["train", str(recipe), *(f"{name}={value}" for name, value in changes.items())]) == 0, (
        capsys.readouterr()
    )
    before, after, written = capsys.readouterr().out.splitlines()[-3:]
    assert before.startswith("before: mean nDCG@10 ")
    assert after.startswith("after: mean nDCG@10 ")
    assert written == f"written to {tmp_path / 'out'}"
    assert BlockRankReranker.from_pretrained(tmp_path / "out").rank("who", ["who", "what"])


def test_the_commands_of_the_recipe_run_in_a_clone_on_what_ships(encoder, tmp_path, monkeypatch, capsys):
    recipe = (ROOT / "examples/finetune_domain.yaml").read_text(encoding="utf-8")
    commands = [shlex.split(line) for line in re.findall(r"^#   (.*)$", recipe, re.MULTILINE)]
    assert [command[0] for command in commands] == [*["python"] * 2, *["blockrank-finetune"] * 2, "blockrank"]
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    small = [f"model={encoder}", "steps=2", "save_every=1", "evaluate_every=2"]
    for program, *words in commands:
        if program == "python":
            monkeypatch.setattr(sys, "argv", words[1:])
            runpy.run_module(words[1], run_name="__main__")
        elif program == "blockrank":
            assert app.main(words) == 0, capsys.readouterr()
        else:
            given = [word for word in words if not re.match(r"\w+=", word)]
            assert main([*given, *small] if given[0] == "train" else given) == 0, capsys.readouterr()
    trained = {json.loads(line)["query"] for line in Path("build/domain.jsonl").read_text().splitlines()}
    held_out = [read_collection(Path("build", name)) for name in ("domain-dev", "domain-test")]
    assert [len(collection.queries) for collection in held_out] == [8, 8]
    assert not trained & {query for collection in held_out for query in collection.queries.values()}
    assert len(trained) >= 20


def test_training_without_its_extra_says_so_before_anything_is_written(encoder, training_data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match="pip install '\\.\\[train\\]'"):
        finetune(settings(encoder, training_data, tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_while_writing_the_result_leaves_no_folder_that_could_be_loaded(
    encoder, training_data, tmp_path, monkeypatch, capsys
):
    def full(self, folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ScoringHead, "save", full)
    output = tmp_path / "out"
    assert main(["train", *arguments(encoder, training_data, output, steps=5)]) != 0
    assert "No space left on device" in capsys.readouterr().err
    assert not output.exists()
    for remains in (tmp_path / "out.training").glob("best*"):
        assert not (remains / "blockrank_config.json").exists()
    monkeypatch.undo()
    assert main(["train", *arguments(encoder, training_data, output, steps=5), "--resume"]) == 0
    assert BlockRankReranker.from_pretrained(output).rank("who", ["who", "what"])


def test_the_config_of_a_query_free_prompt_round_trips(tmp_path):
    prompt = replace(BERT_CONFIG.prompt, instruction="[CLS]{query}[SEP]", query_free_instruction="[CLS]")
    config = replace(BERT_CONFIG, prompt=prompt)
    config.save(tmp_path)
    assert BlockRankConfig.load(tmp_path / "blockrank_config.json") == config


def test_pairs_without_negatives_are_filled_up_with_other_documents(encoder, training_data, tmp_path):
    rows = [json.loads(line) for line in training_data.read_text().splitlines()]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps({"query": row["query"], "pos": row["pos"]}) + "\n" for row in rows))
    finetune(settings(encoder, data, tmp_path / "out", steps=2))
    assert losses_of(tmp_path / "out.training", 2)[0] > 0


def test_an_empty_list_of_a_collection_without_other_documents_keeps_its_positives(encoder, tmp_path):
    data = tmp_path / "one.jsonl"
    data.write_text('{"query": "a", "pos": ["b", "c"], "neg": []}\n')
    asked = settings(encoder, data, "out", abstention_weight=1.0, empty_share=1.0)
    found = TrainingLists([read_examples(data)], asked, 1)[0].candidates
    assert found
    assert {candidate.text for candidate in found} <= {"b", "c"}


def test_documents_that_are_cut_are_told_of_once(encoder, tmp_path):
    data = tmp_path / "long.jsonl"
    data.write_text(json.dumps({"query": "liver", "pos": ["sugar " * 600], "neg": ["blood", "heart"]}) + "\n")
    with pytest.warns(UserWarning, match="documents of the query 'liver' are longer than the model's blocks") as warned:
        finetune(settings(encoder, data, tmp_path / "out", steps=3))
    assert sum("longer than" in str(warning.message) for warning in warned) == 1


def test_evaluation_queries_that_are_trained_on_are_told_of(encoder, training_data, collection, tmp_path):
    folder = shutil.copytree(collection, tmp_path / "evaluation")
    rows = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]
    rows[0]["text"] = "a query that nobody trained on"
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    message = f"39 of the 40 queries of the evaluation {folder} are in the training data"
    with pytest.warns(UserWarning, match=re.escape(message)):
        finetune(settings(encoder, training_data, tmp_path / "out", steps=1, evaluation=[str(folder)]))


def test_the_card_and_the_terminal_say_which_weights_won(encoder, training_data, collection, tmp_path, capsys):
    changes = {"evaluate_every": 5, "evaluation": [str(collection)], "average_last": 2, "save_every": 5}
    result = finetune(settings(encoder, training_data, tmp_path / "out", steps=10, **changes))
    step = result.after["step"]
    assert step in (5, 10, 11)
    chosen = "the average of the last weights" if step == 11 else f"step {step}"
    assert f"chosen by its measures: {chosen}\n" in capsys.readouterr().out
    assert f"The weights are those of {chosen}, the best" in (tmp_path / "out/README.md").read_text()


def test_a_query_of_the_evaluation_that_the_model_cannot_read_is_named(encoder, training_data, collection, tmp_path):
    folder = shutil.copytree(collection, tmp_path / "beir")
    queries = (folder / "queries.jsonl").read_text().splitlines()
    queries[2] = json.dumps(json.loads(queries[2]) | {"text": "liver " * 400})
    (folder / "queries.jsonl").write_text("\n".join(queries) + "\n")
    with pytest.raises(DataError, match=r"beir: query q2: query must have at most \d+ tokens"):
        finetune(settings(encoder, training_data, tmp_path / "out", evaluation=[str(folder)]))
    changes = {"evaluation": [str(folder)], "steps": 1, "long_queries": "truncate"}
    with pytest.warns(UserWarning, match=r"queries have more than .*beir: query q2$"):
        result = finetune(settings(encoder, training_data, tmp_path / "out", **changes))
    assert result.after["mean_ndcg@10"] > 0


ALIKE = {"query": "a", "pos": ["b", "c"], "neg": []}


@pytest.mark.parametrize("rows", [[{"query": "a", "pos": ["b"], "neg": []}], [ALIKE], [ALIKE, ALIKE | {"query": "d"}]])
def test_data_without_any_choice_is_refused(encoder, tmp_path, rows):
    data = tmp_path / "one.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="no query has a document that is relevant and one that is not"):
        finetune(settings(encoder, data, tmp_path / "out"))


def test_queries_without_any_choice_are_counted(tmp_path):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_text(json.dumps(ALIKE) + "\n")
    two.write_text("".join(json.dumps({"query": name, "pos": [name]}) + "\n" for name in "efg"))
    with pytest.warns(UserWarning, match="^1 of 4 queries have relevant documents alone, and their data has no others"):
        TrainingData.read(settings("default", [], "out").with_changes(data=[str(one), str(two)], held_out=0))
