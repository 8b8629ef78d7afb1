"""Documents ranked by the log-probability of their ids, against whole sequences of plain Transformers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.adapters import ContextSettings, Scoring
from blockrank_rerank.cli.app import main
from blockrank_rerank.engine.calibrated import calibration_bases
from blockrank_rerank.finetune.settings import FinetuneSettings
from blockrank_rerank.finetune.training_model import TrainingModel
from blockrank_rerank.model.answer_decoder import AnswerDecoder
from blockrank_rerank.model.checkpoint import Checkpoint
from blockrank_rerank.model.probability_map import ProbabilityMap
from blockrank_rerank.serving.turn import RankRequest, Refused, rank_together
from tests import oracle
from tests.states.test_prepared import save_ranker
from tests.tiny_models import BERT_CONFIG, CONFIG, PROMPT, save_model

QUERY = "what treats a heart attack"
OTHER = "the liver"
DOCUMENTS = [
    "the liver stores sugar",
    "aspirin thins the blood and who",
    "a blocked artery",
    "",
    "sugar",
    "heart </s> 🫀",
]
NUMBERED = replace(PROMPT, document="\nID: {index} | {text} |")
DECODE = replace(CONFIG, prompt=NUMBERED, max_document_tokens=40)
CLOSE = {"abs": 2e-4, "rel": 1e-5}


@pytest.fixture(scope="module", params=["llama", "qwen2-window", "gemma2", "phi3"])
def family(request, tmp_path_factory):
    return save_ranker(tmp_path_factory.mktemp(request.param), request.param, DECODE)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_ranker(tmp_path_factory.mktemp("llama"), "llama", DECODE)


def load(folder, **options):
    return BlockRankReranker.from_pretrained(folder, device="cpu", **{"method": "decode", "dtype": "float32"} | options)


def raw(ranking):
    return [document.raw_score for document in sorted(ranking, key=lambda document: document.index)]


def dense(folder, encoded):
    """The log-probability of each answer by a run of its own over the whole sequence, under a dense mask."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float64).eval()
    config, found = model.config, []
    window = oracle.window_of(config)
    # The answer comes last, so that the mask of a shorter one is a part of the longest one's.
    longest = replace(encoded, query=encoded.query + max(encoded.answers, key=len), answers=[])
    whole = {
        kind: torch.where(oracle.mask([longest], DECODE.query_offset, causal=True, window=reach), 0.0, -torch.inf)
        for kind, reach in {"full_attention": None, "sliding_attention": window}.items()
    }
    for answer in encoded.answers:
        request = replace(encoded, query=encoded.query + answer, answers=[])
        ids = [token for block in (request.instruction, *request.documents, request.query) for token in block]
        masks = {kind: mask[: len(ids), : len(ids)].double()[None, None] for kind, mask in whole.items()}
        by_kind = config.model_type in oracle.TAKES_A_MASK_PER_LAYER_TYPE
        with torch.no_grad():
            logits = model(
                input_ids=torch.tensor([ids]),
                position_ids=oracle.positions([request], DECODE.query_offset)[None],
                attention_mask=masks if by_kind else masks["sliding_attention" if window else "full_attention"],
            ).logits[0]
        rows = torch.arange(len(ids) - len(answer) - 1, len(ids) - 1)
        found.append(float(logits.double()[rows].log_softmax(-1)[range(len(answer)), answer].sum()))
    return found


def test_a_raw_score_is_the_log_probability_of_the_id_in_the_whole_sequence(family):
    ranker = load(family, dtype="float64")
    documents = [*DOCUMENTS, *(f"blood {number}" for number in range(7))]
    expected = dense(family, ranker.engine.prompt.encode(QUERY, documents))
    ranking = ranker.rank(QUERY, documents)
    assert raw(ranking) == pytest.approx(expected, **CLOSE)
    shares = torch.tensor(expected).softmax(0).tolist()
    assert [document.score for document in ranking] == pytest.approx(sorted(shares, reverse=True), abs=1e-5)
    assert {document.probability for document in ranking} == {None}


def test_ids_of_one_two_and_three_digits_are_told_apart_by_what_closes_them(llama):
    short = replace(NUMBERED, document="{index}|{text}")
    ranker = load(llama, dtype="float64", config=replace(DECODE, prompt=short))
    encoded = ranker.engine.prompt.encode(QUERY, ["a"] * 103)
    texts = [ranker.engine.prompt._tokenizer._tokenizer.decode(answer) for answer in encoded.answers]
    assert texts == [f"{number}]" for number in range(103)]
    assert {len(answer) for answer in encoded.answers} == {2, 3, 4}
    scores = raw(ranker.rank(QUERY, ["a"] * 103))
    some = [0, 1, 10, 12, 100, 102]
    expected = dense(llama, replace(encoded, answers=[encoded.answers[number] for number in some]))
    assert [scores[number] for number in some] == pytest.approx(expected, **CLOSE)


def test_a_list_that_goes_through_in_groups_has_the_same_scores(family):
    documents = [f"{text} {number}" for number in range(6) for text in DOCUMENTS[:3]]
    grouped = load(family, max_memory="1KB")
    assert load(family).engine.prompt.encode(QUERY, documents).num_tokens > grouped.engine.budget.tokens
    assert raw(grouped.rank(QUERY, documents)) == pytest.approx(raw(load(family).rank(QUERY, documents)), **CLOSE)


def test_several_requests_of_a_pack_have_the_scores_that_each_has_alone(family):
    ranker = load(family)
    requests = [(OTHER, DOCUMENTS[:3]), (QUERY, DOCUMENTS), (OTHER, []), (OTHER, DOCUMENTS[:1])]
    for request, ranking in zip(requests, ranker.rank_batch(requests), strict=True):
        assert raw(ranking) == pytest.approx(raw(ranker.rank(*request)), **CLOSE)


def test_the_best_block_of_a_long_document_counts_by_its_own_id(llama):
    ranker = load(llama, config=replace(DECODE, long_documents="split", max_document_tokens=30))
    long = " ".join(["the liver stores sugar"] * 12)
    ranking = ranker.rank(QUERY, [long, "aspirin"])
    assert [document.index for document in ranking if document.passage] == [0]
    assert sum(document.score for document in ranking) == pytest.approx(1)


def test_ties_keep_the_input_order(tmp_path):
    folder = save_ranker(tmp_path, "llama", DECODE)
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.nn.init.zeros_(model.lm_head.weight)
    model.save_pretrained(folder)
    ranking = load(folder).rank(QUERY, ["same"] * 13)
    # Every token is as likely as any other, so that a longer id is less likely.
    assert [document.index for document in ranking] == list(range(13))
    assert len({document.raw_score for document in ranking}) == 2


def test_logits_are_made_for_some_tokens_at_a_time(llama, monkeypatch):
    expected = raw(load(llama).rank(QUERY, DOCUMENTS))
    sizes = []
    plain = AnswerDecoder._log_probabilities
    monkeypatch.setattr("blockrank_rerank.model.answer_decoder.LOGITS_AT_A_TIME", 700)
    monkeypatch.setattr(
        AnswerDecoder, "_log_probabilities", lambda self, states: sizes.append(len(states)) or plain(self, states)
    )
    assert raw(load(llama).rank(QUERY, DOCUMENTS)) == pytest.approx(expected, **CLOSE)
    assert max(sizes) == 2


def test_all_layers_are_read_whatever_the_scoring_layer(llama):
    ranker = load(llama, config=replace(DECODE, scoring_layer=0, heads=(1,), abstention=True))
    assert raw(ranker.rank(QUERY, DOCUMENTS)) == pytest.approx(raw(load(llama).rank(QUERY, DOCUMENTS)), **CLOSE)
    assert len(ranker.engine.backbone.model.layers) == 4


def test_a_model_trained_with_its_language_model_loss_can_be_decoded(llama, tmp_path):
    checkpoint = Checkpoint(model=str(llama))
    settings = FinetuneSettings(model=str(llama), output="out", data="x.jsonl", language_model_weight=1.0)
    trained = TrainingModel.load(checkpoint, DECODE, settings)
    trained.save(tmp_path / "trained", checkpoint.tokenizer(1))
    assert raw(load(tmp_path / "trained").rank(QUERY, DOCUMENTS)) == pytest.approx(
        raw(load(llama).rank(QUERY, DOCUMENTS)), **CLOSE
    )


def test_a_model_without_settings_of_its_own_is_told_of_its_prompt_alone(tmp_path):
    with pytest.warns(UserWarning, match="blockrank_config.json: using the prompt of the released checkpoint$"):
        _ = load(save_model(tmp_path, "llama", max_position_embeddings=32768)).config


# What is refused


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"store": "states"}, "store"),
        ({"cache": "1MB"}, "cache"),
        ({"prune": {1: 2}}, "prune"),
        ({"tuning": "legal.safetensors"}, "tuning"),
        ({"content_free_query": "N/A"}, "content_free_query"),
        ({"scoring_layer": 0}, "scoring_layer"),
        ({"quantization": "int8"}, "quantization"),
    ],
)
def test_options_of_attention_are_refused(llama, options, name):
    with pytest.raises(ValueError, match=f"^{name} cannot go together with method decode, which ranks by the id"):
        load(llama, **options)


def test_another_method_is_refused(llama):
    with pytest.raises(ValueError, match="method must be attention or decode, got 'generate'"):
        load(llama, method="generate")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"prompt": PROMPT}, r"method decode needs \{index\} in prompt.document"),
        ({"query_documents_from_layer": 1}, "method decode needs query_documents_from_layer 0, as in the paper, got 1"),
        (
            {
                "prompt": replace(NUMBERED, instruction="Documents:"),
                "content_free_query": "N/A",
                "reduction": "softmax_of_mean",
            },
            "leave content_free_query out of the config",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(llama, changes, error):
    with pytest.raises(ValueError, match=error):
        load(llama, config=replace(DECODE, **changes)).rank(QUERY, DOCUMENTS)


def test_a_model_with_a_trained_scoring_layer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"method decode needs a language model's LM head, and .*\(scoring_head\)"):
        load(save_ranker(tmp_path, "bert", BERT_CONFIG)).rank(QUERY, DOCUMENTS)


def test_a_model_that_was_cut_at_its_scoring_layer_is_refused(llama, tmp_path):
    load(llama, method="attention").save_pretrained(tmp_path / "cut")
    with pytest.raises(ValueError, match=r"method decode needs a language model with all .* LlamaModel"):
        load(tmp_path / "cut").rank(QUERY, DOCUMENTS)


def test_what_needs_attention_is_refused(llama, tmp_path):
    ranker = load(llama)
    calls = {
        "deadline_ms": lambda: ranker.rank(QUERY, DOCUMENTS, deadline_ms=100),
        "search": lambda: ranker.search(tmp_path, QUERY),
        "explain": lambda: ranker.explain(QUERY, DOCUMENTS),
        "context": lambda: ranker.context(QUERY, DOCUMENTS),
        "prepare": lambda: ranker.prepare(DOCUMENTS),
        "prepare_store": lambda: ranker.prepare_store(tmp_path / "store", DOCUMENTS),
        "save_pretrained": lambda: ranker.save_pretrained(tmp_path / "saved"),
        "query_free": ranker.query_free,
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f"^{name} needs the attention of a scoring layer, and this"):
            call()
    with pytest.raises(ValueError, match=r"^max_tokens needs the attention of a scoring layer"):
        Scoring().context(ranker, QUERY, DOCUMENTS, ContextSettings())
    with pytest.raises(Refused, match=r"^highlights needs the attention"):
        list(rank_together(ranker, [RankRequest(QUERY, DOCUMENTS, highlights=True)]))
    with pytest.raises(ValueError, match=r"use threshold, or calibrate its log-probabilities with .* --method decode"):
        ranker.rank(QUERY, DOCUMENTS, min_probability=0.5)


def calibration(ranker, path):
    bases = calibration_bases(ranker.engine, ranker._shared.spec)
    ProbabilityMap(slope=0.5, intercept=4.0, threshold=0.0, bases=bases, tuning=None, facts={}).save(path)
    return path


def test_log_probabilities_are_calibrated_as_scores_of_attention_are(llama, tmp_path):
    path = calibration(load(llama), tmp_path / "decode.json")
    ranking = load(llama, calibration=path).rank(QUERY, DOCUMENTS)
    odds = 0.5 * torch.tensor([document.raw_score for document in ranking]) + 4.0
    assert [document.probability for document in ranking] == pytest.approx(odds.sigmoid().tolist(), abs=1e-6)


def test_a_calibration_of_attention_is_none_of_decoding_where_all_weights_are_the_same(tmp_path):
    folder = save_model(tmp_path / "tied", "llama", tie_word_embeddings=True)
    config = replace(DECODE, scoring_layer=3)
    path = calibration(load(folder, config=config, method="attention"), tmp_path / "attention.json")
    with pytest.raises(ValueError, match="was made for another model"):
        load(folder, config=config, calibration=path).rank(QUERY, DOCUMENTS)


def test_a_query_leaves_room_for_the_answer(llama):
    ranker, attending = load(llama), load(llama, method="attention")
    assert ranker.engine.prompt.longest_query < attending.engine.prompt.longest_query
    with pytest.raises(ValueError, match="query must have at most 112 tokens"):
        ranker.rank("x" * 110, DOCUMENTS)


def test_the_command_line_decodes(llama, tmp_path, capsys):
    file = tmp_path / "documents.txt"
    file.write_text("\n".join(document for document in DOCUMENTS if document))
    assert main(["rerank", QUERY, str(file), "--model", str(llama), "--method", "decode"]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 5
