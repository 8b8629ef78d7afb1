"""The table of README and model card is that of docs/results, and the reports behind it are those that are typed."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch):
    """Gives a script of benchmarks/ as a module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")

    def load(name):
        spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", ROOT / f"benchmarks/{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    sys.modules.pop("evaluation_sets", None)


def numbers(queries, **measures):
    rows = [
        {"name": name, "measures": {"nDCG@10": value}, "interval": {"mean": value, "low": value - 0.02, "high": 1}}
        for name, value in measures.items()
    ]
    for row in rows:
        row["ours"] = {"mean": 0.0724, "low": -0.003, "high": 0.1}
    return {"model": "BlockRank default", "collection": {"queries": queries}, "rows": rows}


BASE = {"cosine all-MiniLM-L6-v2": 0.651, "MaxSim all-MiniLM-L6-v2": 0.66}
RESULTS = {
    "trecqa": numbers(68, random=0.45, **{"BlockRank default": 0.889}),
    "scifact": numbers(1300, BM25=0.662, **{"BlockRank default": 0.72345} | BASE),
    "scifact-30": numbers(300, BM25=0.662, **{"BlockRank default": 0.7}),
}
ROWS = [
    "| collection | queries | first stage | cosine | MaxSim | default model | 95 % interval | over cosine |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
    "| SciFact | 1,300 | 66.2 | 65.1 | 66.0 | 72.3 | 70.3–100.0 | +7.2 (−0.3 to +10.0) |",
    "| SciFact, BM25's top 30 | 300 | 66.2 | – | – | 70.0 | 68.0–100.0 | – |",
    "| TrecQA (its candidates; first stage is random order) | 68 | 45.0 | – | – | 88.9 | 86.9–100.0 | – |",
    "| mean |  | 55.6 | – | – | 80.6 |  |  |",
]


@pytest.fixture
def results(tmp_path):
    (tmp_path / "results").mkdir()
    for name, found in RESULTS.items():
        (tmp_path / f"results/{name}.json").write_text(json.dumps(found))
    return tmp_path / "results"


def test_the_table_is_in_the_order_of_the_titles_and_its_mean_leaves_the_second_scifact_out(script, results):
    module = script("results_table")
    assert module.table(module.read_results(results)).splitlines() == ROWS


def test_the_table_is_written_between_its_comments_and_checked(script, results, tmp_path):
    module, readme = script("results_table"), tmp_path / "README.md"
    card = tmp_path / "card.md"
    for page in (readme, card):
        page.write_text(f"before\n{module.BEGIN}\nold\n{module.END}\nafter\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"the table of .*README\.md is not that of docs/results"):
        module.main(True, [readme, card], results)
    assert "old" in readme.read_text(encoding="utf-8")
    module.main(False, [readme, card], results)
    expected = [module.BEGIN, "", *ROWS, "", module.END]
    for page in (readme, card):
        assert page.read_text(encoding="utf-8").splitlines() == ["before", *expected, "after"]
    module.main(True, [readme, card], results)
    card.write_text(f"{module.BEGIN}\nold\n{module.END}\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"the table of .*card\.md is not"):
        module.main(True, [readme, card], results)


def test_a_page_without_a_place_for_the_table_is_refused(script, results, tmp_path):
    (tmp_path / "README.md").write_text("no comments")
    with pytest.raises(SystemExit, match="expected the lines"):
        script("results_table").main(True, [tmp_path / "README.md"], results)


def test_nothing_is_checked_before_there_are_numbers(script, tmp_path, capsys):
    script("results_table").main(True, [tmp_path / "absent.md"], tmp_path)
    assert "has no numbers yet" in capsys.readouterr().out


def test_readme_and_model_card_have_the_table_of_the_numbers_in_the_repository(script):
    script("results_table").main(True)


def test_every_collection_is_measured_in_its_own_way_and_scifact_twice(script, tmp_path, monkeypatch):
    module, typed = script("results"), []

    def blockrank(words):
        page = Path(words[words.index("--output") + 1])
        page.with_suffix(".json").write_text(json.dumps({"command": "blockrank report", "rows": [1], "latencies": [2]}))
        typed.append(words)
        return 0

    monkeypatch.setattr(module, "blockrank", blockrank)
    for name in ("scifact", "trec-dl19", "other"):
        (tmp_path / "data" / name).mkdir(parents=True)
    module.main(tmp_path / "data", 5, [], tmp_path / "numbers", tmp_path / "pages")
    assert sorted(path.stem for path in (tmp_path / "numbers").iterdir()) == [
        "other", "scifact", "scifact-30", "trec-dl19",
    ]  # fmt: skip
    # Times are of one machine's moment, and the pages' folder is nobody else's.
    kept = json.loads((tmp_path / "numbers/scifact-30.json").read_text())
    assert kept == {"command": "python benchmarks/results.py FOLDER --only scifact", "rows": [1]}
    options = {Path(words[1]).name + words[3]: words[6:] for words in typed}
    assert options["other100"] == ["--split", "test", "--min-relevance", "1", "--queries", "5"]
    run = str(tmp_path / "data/trec-dl19/bm25.trec")
    assert options["trec-dl19100"] == [
        *("--split", "full_pool", "--min-relevance", "2", "--run", run, "--queries", "5")
    ]
    assert "scifact30" in options


def test_a_report_that_fails_stops_the_others(script, tmp_path, monkeypatch):
    module = script("results")
    monkeypatch.setattr(module, "blockrank", lambda words: 4)
    (tmp_path / "data/cisi").mkdir(parents=True)
    with pytest.raises(SystemExit, match="cisi: no report"):
        module.main(tmp_path / "data", None, [], tmp_path / "numbers", tmp_path / "pages")
