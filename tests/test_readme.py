from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PREPARED = (ROOT / "docs/prepared.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^(?:.*\| )?(blockrank .*?)(?: +#.*| \| .*)?$", re.MULTILINE)


def load_outputs():
    spec = importlib.util.spec_from_file_location("readme_outputs", ROOT / ".ci/readme_outputs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


OUTPUTS = load_outputs()
BLOCKS = {
    OUTPUTS.command_of(block)[-1]: block
    for path in OUTPUTS.PAGES
    for block in OUTPUTS.blocks(path.read_text(encoding="utf-8"))
}
"""What is shown, once where two pages show the same."""


@pytest.mark.parametrize("block", BLOCKS.values(), ids=[block[1].splitlines()[0][:40] for block in BLOCKS.values()])
def test_what_the_readme_and_the_start_page_show_is_what_is_printed(block):
    if "plain_python" in block[1]:
        pytest.importorskip("bm25s", reason="needs the extra eval")
    printed = OUTPUTS.printed(OUTPUTS.command_of(block))
    assert OUTPUTS.same(block[3], printed), f"shown:\n{block[3]}\nprinted:\n{printed}"


def test_every_python_block_of_the_readme_and_the_start_page_shows_its_output():
    for path in OUTPUTS.PAGES:
        page = path.read_text(encoding="utf-8")
        assert len(BLOCK.findall(page)) == len(OUTPUTS.PYTHON.findall(page)) == 1


def test_the_first_command_stands_at_the_top_and_its_answer_is_one_that_bm25_has_far_down():
    block = next(OUTPUTS.CONSOLE.finditer(README))
    assert block[1].startswith(OUTPUTS.INSTALLS)
    assert block.start() < len("\n".join(README.splitlines()[:15]))
    first, *others = re.findall(r"^ +\d+  0\.\d+  ([01]\.\d+) .*?:(\d+) ", block[3], re.MULTILINE)
    assert int(first[1]) > 10
    assert float(first[0]) > 2 * max(float(probability) for probability, _ in others)


def test_the_file_of_the_first_command_is_in_the_order_of_bm25():
    pytest.importorskip("bm25s", reason="needs the extra eval")
    from recipes.make_sample import best_by_bm25

    lines = (ROOT / "examples/data/insulin.txt").read_text(encoding="utf-8").splitlines()
    assert lines == best_by_bm25(ROOT / "examples/data/medquad-sample")


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("1  0.52  iron\n", "1   0.525  iron\n", True),
        ("1  0.52  iron\n", "1  0.54  iron\n", False),
        ("24 better, 2 worse\n", "25 better, 2 worse\n", False),
        ("iron\n", "iron 0.5\n", False),
    ],
)
def test_outputs_are_the_same_up_to_the_rounding_of_machines(shown, printed, same):
    assert OUTPUTS.same(shown, printed) is same


def test_outputs_are_written_anew_where_they_differ_and_nowhere_else():
    page = "```console\n$ blockrank doctor\nold\n```\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n"
    new = OUTPUTS.with_outputs(page, lambda command: "1\n" if command[1] == "-c" else "new\n")
    assert new == page.replace("old", "new")


def test_files_that_commands_of_the_readme_read_are_there():
    section = README[README.index("## From the command line") : README.index("## Larger models")]
    commands = COMMAND.findall(section[: section.index("TREC runs too")])
    assert len(commands) == 9
    words = [word for command in commands for word in command.split() if word.startswith("examples/")]
    assert len(words) >= 5
    assert [word for word in words if not [*ROOT.glob(word)]] == []


def test_two_commands_serve_a_fresh_machine_one_to_rank_and_one_to_test():
    assert re.findall(r"^(?:\$ )?(pip install .*? && \w+)", README, re.MULTILINE) == [
        "pip install . && blockrank",
        "pip install '.[test]' && pytest",
    ]
    assert README.count("pip install") == 2


def test_the_python_blocks_of_the_page_on_prepared_documents_run_one_after_the_other(capsys):
    exec(compile("\n".join(BLOCK.findall(PREPARED)), "prepared.md", "exec"), {})
    assert "hits=2" in capsys.readouterr().out


def test_the_python_blocks_of_the_page_on_contexts_run(capsys):
    page = (ROOT / "docs" / "context.md").read_text(encoding="utf-8")
    exec(compile("\n".join(BLOCK.findall(page)), "context.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[-1].endswith("budget")


def test_links_in_the_readme_lead_somewhere():
    local = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert local
    assert [link for link in local if not (ROOT / link.partition("#")[0]).exists()] == []
