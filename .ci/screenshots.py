"""Draw the pictures of docs/explain.md, light and dark: `python .ci/screenshots.py`; needs chromium, chromedriver."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from selenium import webdriver

from blockrank_rerank import BlockRankReranker

ROOT = Path(__file__).parents[1]
QUERY = "How many people are affected by type A insulin resistance syndrome?"
PAGE = """<meta charset="utf-8"><style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.5 sans-serif; margin: 16px; background: Canvas; color: CanvasText }}
</style>{}"""
WIDTH = 820


def page() -> str:
    """What a notebook would put under `explain`, of the best three documents."""
    passages = (ROOT / "examples/data/insulin.txt").read_text(encoding="utf-8").splitlines()
    ranker = BlockRankReranker.from_pretrained()
    best = [found.text for found in ranker.rank(QUERY, passages, top_k=3)]
    return PAGE.format(ranker.explain(QUERY, best)._repr_html_())


def main() -> None:
    """Write the pictures."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None or (driver := shutil.which("chromedriver")) is None:
        raise SystemExit("chromium and chromedriver must be on the path")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    with tempfile.TemporaryDirectory() as folder:
        options.add_argument(f"--user-data-dir={folder}/profile")
        shown = Path(folder, "page.html")
        shown.write_text(page(), encoding="utf-8")
        window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        window.get(shown.as_uri())
        height = window.execute_script("return document.documentElement.scrollHeight")
        window.set_window_size(WIDTH, height + 140)
        for scheme in ("light", "dark"):
            feature = {"name": "prefers-color-scheme", "value": scheme}
            window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
            window.save_screenshot(str(ROOT / f"docs/explain-{scheme}.png"))
        window.quit()


if __name__ == "__main__":
    main()
