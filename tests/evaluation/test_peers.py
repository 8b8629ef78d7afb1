"""Models of other kinds, with the shape of ours."""

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel

from blockrank_rerank.evaluation.peers import (
    CosineRanker,
    CrossEncoderRanker,
    Encoder,
    MaxSimRanker,
    RerankersRanker,
    model_kind,
)
from blockrank_rerank.evaluation.report.contestants import other_contestants
from tests.tiny_models import BERT_CONFIG, bert_tokenizer, randomise, save_model

sentence_transformers = pytest.importorskip("sentence_transformers")

CPU, FP32 = torch.device("cpu"), torch.float32
QUERY = "what treats a heart attack"
TEXTS = ["the liver stores sugar", "aspirin thins the blood", "a heart attack", "the liver stores sugar"]
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}


def config(**others):
    return BertConfig(**SHAPE, vocab_size=len(bert_tokenizer()), max_position_embeddings=64, pad_token_id=0, **others)


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "cross"
    model = BertForSequenceClassification(config(num_labels=1))
    randomise(model)
    model.save_pretrained(folder)
    bert_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def embedding(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "plain"
    model = BertModel(config())
    randomise(model)
    model.save_pretrained(folder)
    bert_tokenizer().save_pretrained(folder)
    # An encoder alone gets mean pooling.
    sentence_transformers.SentenceTransformer(str(folder), device="cpu").save(str(folder.with_name("embedding")))
    return str(folder.with_name("embedding"))


def raw(ranking):
    return [document.raw_score for document in sorted(ranking, key=lambda document: document.index)]


def test_a_cross_encoder_ranks_by_its_logits(cross_encoder):
    ranking = CrossEncoderRanker(cross_encoder, CPU, FP32).rank_batch([(QUERY, TEXTS), (QUERY, [])])[0]
    library = sentence_transformers.CrossEncoder(cross_encoder, device="cpu")
    logits = library.predict([(QUERY, text) for text in TEXTS], activation_fn=torch.nn.Identity())
    assert raw(ranking) == pytest.approx(logits.tolist(), abs=1e-5)
    assert [d.score for d in ranking] == sorted(raw(ranking), reverse=True)


def test_a_ranker_of_rerankers_ranks_by_its_scores(cross_encoder):
    pytest.importorskip("rerankers")
    contestant = other_contestants(f"rerankers:cross-encoder:{cross_encoder}", None, 0)[0]
    ranking = contestant.ranker.rank_batch([(QUERY, TEXTS), (QUERY, [])])[0]
    ours = CrossEncoderRanker(cross_encoder, CPU, FP32).rank_batch([(QUERY, TEXTS)])[0]
    assert (contestant.name, [*contestant.ways]) == ("rerankers cross", ["cold"])
    assert raw(ranking) == pytest.approx(raw(ours), abs=1e-2)  # it computes in 16 bits where it chooses to


def test_a_ranker_of_rerankers_without_scores_counts_by_its_ranks(monkeypatch):
    library, results = pytest.importorskip("rerankers"), pytest.importorskip("rerankers.results")

    class Backwards:
        def rank(self, query, docs, doc_ids):
            found = [library.Document(text, doc_id=i) for text, i in zip(docs, doc_ids, strict=True)]
            return results.RankedResults([results.Result(d, rank=r) for r, d in enumerate(reversed(found))], query)

    monkeypatch.setattr(library, "Reranker", lambda *words, **options: Backwards())
    ranking = RerankersRanker("rankgpt:any").rank_batch([(QUERY, TEXTS)])[0]
    assert [found.index for found in ranking] == [3, 2, 1, 0]


def test_a_ranker_that_rerankers_does_not_have_is_refused_with_its_words(capsys):
    pytest.importorskip("rerankers")
    with pytest.raises(ValueError, match=r"no ranker of type 'flashrank' for 'small': .*rerankers\[flashrank\]"):
        RerankersRanker("flashrank:small")
    with pytest.raises(ValueError, match=r"expected rerankers:TYPE:MODEL, .* got 'rerankers:small'"):
        RerankersRanker("small")
    assert capsys.readouterr().out == ""


def test_an_embedding_model_ranks_by_its_cosine(embedding):
    encoder = Encoder(embedding, CPU, FP32)
    told = []
    rankings = CosineRanker(encoder).rank_batch(
        [(QUERY, TEXTS), ("sugar", TEXTS[:2])], on_progress=lambda items, tokens: told.append(items)
    )
    library = sentence_transformers.SentenceTransformer(embedding, device="cpu")
    for ranking, query in zip(rankings, (QUERY, "sugar"), strict=True):
        expected = library.similarity(library.encode_query([query]), library.encode_document(TEXTS))[0]
        assert raw(ranking) == pytest.approx(expected[: len(ranking)].tolist(), abs=1e-5)
    assert told == [2]


def test_maxsim_is_the_mean_over_query_tokens_of_the_best_cosine(embedding):
    ranking = MaxSimRanker(Encoder(embedding, CPU, FP32)).rank_batch([(QUERY, TEXTS)])[0]
    library = sentence_transformers.SentenceTransformer(embedding, device="cpu")

    def tokens(text):
        return torch.nn.functional.normalize(library.encode([text], output_value="token_embeddings")[0], dim=-1)

    expected = [(tokens(QUERY) @ tokens(text).T).amax(1).mean().item() for text in TEXTS]
    assert raw(ranking) == pytest.approx(expected, abs=1e-5)


def test_documents_that_were_read_before_compare_alike(embedding):
    for kind in (CosineRanker, MaxSimRanker):
        ranker = kind(Encoder(embedding, CPU, FP32))
        found = ranker.compare(ranker.query(QUERY), ranker.documents(TEXTS))
        assert found == pytest.approx(raw(ranker.rank_batch([(QUERY, TEXTS)])[0]), abs=1e-5)


def test_ties_keep_their_order_and_limits_cut(cross_encoder):
    ranker = CrossEncoderRanker(cross_encoder, CPU, FP32)
    order = [d.index for d in ranker.rank_batch([(QUERY, [TEXTS[0]] * 3)])[0]]
    assert order == [0, 1, 2]
    assert len(ranker.rank_batch([(QUERY, TEXTS)], top_k=2)[0]) == 2


def test_the_kind_of_a_model_is_read_from_its_files(cross_encoder, embedding, tmp_path):
    BERT_CONFIG.save(save_model(tmp_path / "ours", "bert"))
    models = ("default", str(tmp_path / "ours"), cross_encoder, embedding)
    assert [model_kind(model) for model in models] == ["BlockRank", "BlockRank", "cross-encoder", "embedding"]


def test_a_model_without_a_score_of_its_own_is_refused_before_it_gets_a_random_one(tmp_path):
    folder = save_model(tmp_path / "decoder", "llama")
    with pytest.raises(ValueError, match=r"files say LlamaForCausalLM: it has no score of its own"):
        model_kind(str(folder))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        model_kind(str(tmp_path / "absent"))
