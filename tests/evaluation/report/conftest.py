"""A report of the tiny collection, measured once."""

import pytest

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.evaluation.report.build import ReportBuilder, read_task
from blockrank_rerank.evaluation.report.contestants import Contestant, blockrank_contestant
from blockrank_rerank.evaluation.task import TaskSource
from tests.evaluation.report.collection import COMMAND, told, write_collection, write_model
from tests.fake_ranker import FakeRanker


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return TaskSource(folder=write_collection(tmp_path_factory.mktemp("data") / "tiny <b>"), depth=8)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "$tiny$ <i>")


@pytest.fixture(scope="module")
def ours(model):
    return blockrank_contestant(
        model.name,
        lambda cache: BlockRankReranker.from_pretrained(model, device="cpu", dtype="float32", cache=cache),
        "10MB",
    )


@pytest.fixture(scope="module")
def words():
    ranker = FakeRanker()
    ways = {"cold": lambda query, documents: lambda: ranker.rank(query, documents)}
    return Contestant(name="words", ranker=ranker, ways=ways)


@pytest.fixture(scope="module")
def built(source, ours, words):
    log = []
    builder = ReportBuilder(
        source=source,
        task=read_task(source),
        contestants=[ours, words],
        progress=lambda what, total: told(log, what, total),
    )
    return builder.build(COMMAND, ["something <u>is</u> missing"]), log


@pytest.fixture(scope="module")
def report(built):
    return built[0]


@pytest.fixture(scope="module")
def numbers(report):
    return report.numbers
