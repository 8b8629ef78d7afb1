from __future__ import annotations

from statistics import mean

import pytest
import torch

pytest.importorskip("sentence_transformers", reason="needs sentence-transformers, from the train extra")

from safetensors.torch import load_file, save_file
from sentence_transformers.cross_encoder.evaluation import (
    CrossEncoderClassificationEvaluator,
    CrossEncoderRerankingEvaluator,
)

from blockrank_rerank import BlockRankCrossEncoder, BlockRankReranker
from tests.integrations.conftest import QUESTION, TEXTS
from tests.tiny_models import CONFIG, save_model

# Of equal length in tokens.
CODES = [first + second for first in "xyz" for second in "XYZKQ"]


def cross_encoder(*folder, **options):
    return BlockRankCrossEncoder(BlockRankReranker.from_pretrained(*folder, **options, dtype="float32"))


def evaluate(encoder, samples, **settings):
    return CrossEncoderRerankingEvaluator(samples, write_csv=False, **settings)(encoder)


@pytest.fixture(scope="module")
def knows_nothing(tmp_path_factory):
    """All its attention is uniform, so that documents of equal length have equal scores."""
    folder = save_model(tmp_path_factory.mktemp("nothing"), "llama")
    weights = load_file(folder / "model.safetensors")
    blind = {name: torch.zeros_like(weight) if "q_proj" in name else weight for name, weight in weights.items()}
    save_file(blind, folder / "model.safetensors", metadata={"format": "pt"})
    reranker = BlockRankReranker.from_pretrained(folder, config=CONFIG, dtype="float32")
    return BlockRankCrossEncoder(reranker, score_type="share")


def test_the_evaluator_sees_the_engines_ranking(ranking):
    for place, document in enumerate(ranking, start=1):
        sample = {"query": QUESTION, "positive": [TEXTS[document.index]], "documents": TEXTS}
        assert evaluate(cross_encoder(), [sample])["mrr@10"] == pytest.approx(1 / place)


@pytest.mark.parametrize("always_rerank_positives", [True, False])
def test_metrics_do_not_depend_on_the_order_of_the_candidates(ranking, always_rerank_positives):
    positive = [TEXTS[ranking[1].index], TEXTS[ranking[3].index]]
    first, last = (
        [*positive, *(text for text in TEXTS if text not in positive)],
        [*(text for text in TEXTS if text not in positive), *positive],
    )
    found = [
        evaluate(
            cross_encoder(),
            [{"query": QUESTION, "positive": positive, "documents": texts}],
            always_rerank_positives=always_rerank_positives,
        )
        for texts in (first, last)
    ]
    for metric in ("map", "mrr@10", "ndcg@10"):
        assert found[0][metric] == pytest.approx(found[1][metric])
    assert found[0]["mrr@10"] == pytest.approx(1 / 2)
    assert found[0]["base_mrr@10"] == 1


@pytest.mark.parametrize("always_rerank_positives", [True, False])
def test_a_model_that_knows_nothing_gains_nothing_from_positives_that_come_first(
    knows_nothing, always_rerank_positives
):
    samples = [
        {"query": f"q{length}", "positive": CODES[:1], "documents": CODES[:length]}
        for length in range(2, len(CODES) + 1)
    ]
    found = evaluate(knows_nothing, samples, always_rerank_positives=always_rerank_positives)
    # Tied documents share a place in this metric, so that one relevant document of n has the precision 1 / n; the
    # last bit of a score breaks a tie now and then.
    by_chance = mean(1 / len(sample["documents"]) for sample in samples)
    assert found["map"] == pytest.approx(by_chance, abs=0.02)
    assert found["ndcg@10"] < 1 / 2
    assert found["mrr@10"] < 1 / 2
    assert found["base_mrr@10"] == 1


def test_positives_that_the_first_stage_missed_count_unless_they_are_always_reranked():
    sample = {"query": QUESTION, "positive": [TEXTS[1]], "documents": [TEXTS[0], *TEXTS[2:]]}
    assert evaluate(cross_encoder(), [sample], always_rerank_positives=True)["mrr@10"] == 1
    assert evaluate(cross_encoder(), [sample], always_rerank_positives=False)["mrr@10"] == 0


def test_the_classification_evaluator_takes_it(ranking):
    best, worst = ranking[0].index, ranking[-1].index
    pairs = [(QUESTION, TEXTS[best]), (QUESTION, TEXTS[worst])]
    found = CrossEncoderClassificationEvaluator(pairs, [1, 0], write_csv=False)(cross_encoder())
    assert found["average_precision"] == 1.0


def test_mining_hard_negatives_takes_it():
    datasets = pytest.importorskip("datasets")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    class Hashing(SentenceTransformer):
        """A first stage without a model: words fall into buckets."""

        def __init__(self):
            torch.nn.Module.__init__(self)

        device = torch.device("cpu")
        similarity_fn_name = "cosine"

        def encode(self, sentences, **ignored):
            vectors = torch.zeros(len(sentences), 64)
            for row, sentence in enumerate(sentences):
                for word in sentence.lower().split():
                    vectors[row, sum(map(ord, word)) % 64] += 1
            return torch.nn.functional.normalize(vectors, dim=-1).numpy()

        encode_query = encode_document = encode

        def similarity(self, first, second):
            return torch.as_tensor(first) @ torch.as_tensor(second).T

        def similarity_pairwise(self, first, second):
            return (torch.as_tensor(first) * torch.as_tensor(second)).sum(-1)

    pairs = datasets.Dataset.from_dict({"query": [QUESTION, "how is bread baked"], "answer": [TEXTS[1], TEXTS[2]]})
    mined = mine_hard_negatives(
        pairs, Hashing(), cross_encoder=cross_encoder(), corpus=TEXTS[:5], num_negatives=1, verbose=False
    )
    assert len(mined) == 2
    assert mined[0]["negative"] != TEXTS[1]
