"""Make pages that are written for the code host fit for the site: mkdocs calls these hooks.

A page links to files outside docs/ as the code host needs it. On the site such a file is a page of its own, or is named
without a link.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGES = {
    "dev/LOG.md": "log.md",
    "CHANGELOG.md": "changelog.md",
    "blockrank_rerank/default_model/README.md": "default_model.md",
}
OUTWARD = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)(#[^)]*)?\)")
UNTESTED = re.compile(r"^```(\w+) no-run$", re.MULTILINE)
ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):(?=<code>)")
OPTIONS_HERE = "{{ options }}"
OPTIONS = Path(__file__).parents[1] / "blockrank_rerank/options/options.py"


def on_page_markdown(markdown: str, *, page: Any, **others: Any) -> str:
    """Rewrite links that leave docs/, in the pages directly there; drop what only the tests read; list the options."""
    shown = UNTESTED.sub(r"```\1", markdown)
    if OPTIONS_HERE in shown:
        shown = shown.replace(OPTIONS_HERE, "\n".join(_option_rows()))
    return OUTWARD.sub(_on_the_site, shown) if "/" not in page.file.src_uri else shown


def on_page_content(html: str, **others: Any) -> str:
    """Drop the names of Sphinx's roles, which docstrings write before the names of code."""
    return ROLE.sub("", html)


def _on_the_site(link: re.Match[str]) -> str:
    text, path, anchor = link[1], link[2], link[3] or ""
    return f"[{text}]({PAGES[path]}{anchor})" if path in PAGES else f"`{path}`"


def _option_rows() -> Iterator[str]:
    """Read the declarations without importing them, which would take torch."""
    yield "| option | type | default | meaning |\n|---|---|---|---|"
    tree = ast.parse(OPTIONS.read_text(encoding="utf-8"))
    (options,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Options")
    for field in options.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.value, ast.Call):
            default, _, meaning = field.value.args[:3]
            paragraph = " ".join(ast.literal_eval(meaning).partition("\n\n")[0].split()).replace("``", "`")
            cells = f"`{ast.unparse(field.target)}`", f"`{ast.unparse(field.annotation)}`", f"`{ast.unparse(default)}`"
            yield "| " + " | ".join((*cells, paragraph)) + " |"
