"""Clients of other makers, as they are installed, get the ranking over loopback."""

from __future__ import annotations

import math
import os

import pytest

pytest.importorskip("fastapi", reason="needs the serve extra")

from blockrank_rerank.serving.app import create_app
from tests.serving.conftest import DOCUMENTS, QUERY, on_loopback

BEST = 2
"""Documents that are asked for."""


@pytest.fixture(scope="module")
def address(ranker):
    with on_loopback(create_app(ranker, api_key="key")) as address:
        yield address


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def needs(module):
    return pytest.importorskip(module, reason="needs the test-serve extra")


def indices_and_scores(results):
    return [(result.index, result.relevance_score) for result in results]


def cohere_v2(address):
    client = needs("cohere").ClientV2(api_key="key", base_url=address)
    return indices_and_scores(client.rerank(model="any", query=QUERY, documents=DOCUMENTS, top_n=BEST).results)


def cohere_v1(address):
    client = needs("cohere").Client(api_key="key", base_url=address)
    answer = client.rerank(model="any", query=QUERY, documents=DOCUMENTS, top_n=BEST, return_documents=True)
    assert answer.results[0].document.text == DOCUMENTS[answer.results[0].index]
    return indices_and_scores(answer.results)


def voyage(address):
    client = needs("voyageai").Client(api_key="key", base_url=f"{address}/v1")
    answer = client.rerank(QUERY, DOCUMENTS, model="any", top_k=BEST)
    assert answer.total_tokens > 0
    return indices_and_scores(answer.results)


def litellm(model, base):
    def rank(address):
        answer = needs("litellm").rerank(
            model=model, query=QUERY, documents=DOCUMENTS, top_n=BEST, api_base=base.format(address), api_key="key"
        )
        return [(row["index"], row["relevance_score"]) for row in answer.results][:BEST]

    rank.__name__ = f"litellm_{model.partition('/')[0]}"
    return rank


def langchain(address):
    compressor = needs("langchain_cohere").CohereRerank(
        client=needs("cohere").ClientV2(api_key="key", base_url=address), model="any", top_n=BEST
    )
    found = compressor.rerank(DOCUMENTS, QUERY)
    return [(row["index"], row["relevance_score"]) for row in found]


def haystack(module, name, url_name, page="", key_name="api_key", **settings):
    def rank(address):
        component = getattr(needs(f"haystack_integrations.components.rankers.{module}"), name)
        haystack = needs("haystack")
        key = haystack.utils.Secret.from_token("key")
        ranker = component(top_k=BEST, **{url_name: address + page, key_name: key}, **settings)
        documents = [haystack.Document(content=text) for text in DOCUMENTS]
        found = ranker.run(query=QUERY, documents=documents)["documents"]
        return [(DOCUMENTS.index(document.content), document.score) for document in found]

    rank.__name__ = f"haystack_{module}"
    return rank


def llama_index(module, name, **settings):
    def rank(address):
        postprocessor = getattr(needs(f"llama_index.postprocessor.{module}"), name)
        schema = needs("llama_index.core.schema")
        nodes = [schema.NodeWithScore(node=schema.TextNode(text=text), score=0.0) for text in DOCUMENTS]
        found = postprocessor(base_url=address, top_n=BEST, **settings).postprocess_nodes(nodes, query_str=QUERY)
        return [(DOCUMENTS.index(node.text), node.score) for node in found]

    rank.__name__ = f"llama_index_{module}"
    return rank


def probability(logit):
    return 1 / (1 + math.exp(-logit))


def langchain_nvidia(address):
    ranker = needs("langchain_nvidia_ai_endpoints").NVIDIARerank(
        base_url=f"{address}/v1", api_key="key", top_n=BEST, usage_telemetry_enabled=False
    )
    document = needs("langchain_core.documents").Document
    found = ranker.compress_documents([document(text) for text in DOCUMENTS], QUERY)
    return [(DOCUMENTS.index(it.page_content), probability(it.metadata["relevance_score"])) for it in found]


def llama_index_nvidia(address):
    rank = llama_index("nvidia_rerank", "NVIDIARerank", api_key="key")
    return [(index, probability(logit)) for index, logit in rank(f"{address}/v1")]


CLIENTS = [
    cohere_v2,
    cohere_v1,
    voyage,
    litellm("cohere/any", "{}/v2/rerank"),
    litellm("jina_ai/any", "{}/v1/rerank"),
    litellm("hosted_vllm/any", "{}"),
    litellm("huggingface/any", "{}"),
    langchain,
    haystack("cohere", "CohereRanker", "api_base_url", model="any"),
    haystack("jina", "JinaRanker", "base_url", "/v1/rerank", model="any"),
    haystack("huggingface_api", "HuggingFaceTEIRanker", "url", key_name="token"),
    llama_index("cohere_rerank", "CohereRerank", api_key="key", model="any"),
    llama_index("tei_rerank", "TextEmbeddingInference", auth_token="Bearer key"),
    langchain_nvidia,
    llama_index_nvidia,
]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
def test_a_client_gets_the_best_documents_with_their_probabilities(client, address, ranker):
    expected = [(document.index, document.probability) for document in ranker.rank(QUERY, DOCUMENTS)[:BEST]]
    found = client(address)
    assert [index for index, _ in found] == [index for index, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-5)
