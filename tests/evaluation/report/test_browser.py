"""The page in a real browser, light and dark."""

import shutil

import pytest

from blockrank_rerank.evaluation.report.page import write_report

for module in ("ir_measures", "bm25s", "matplotlib", "jinja2"):
    pytest.importorskip(module)
webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
DRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not BROWSER or not DRIVER:
        pytest.skip("needs chromium and chromedriver on the path")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    profile = tmp_path_factory.mktemp("browser")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(browser, report, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(report, path)
    browser.get(path.as_uri())
    return browser


def test_no_text_of_the_collection_becomes_markup_or_runs(page):
    assert page.title == "BlockRank $tiny$ <i> on tiny <b>"
    assert page.execute_script("return document.querySelectorAll('script, img, b, i').length") == 0
    assert "<script>document.title = 'taken'</script>" in page.execute_script("return document.body.textContent")


def test_the_page_asks_for_nothing_and_complains_of_nothing(page):
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert [entry["message"] for entry in page.get_log("browser")] == []


def brightness(colour):
    return sum(map(int, colour[colour.index("(") + 1 : -1].split(",")[:3])) / 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_plots_are_readable_in_both_colours(page, scheme):
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    paper, ink, *plots = page.execute_script(
        "const style = name => getComputedStyle(name);"
        "return [style(document.body).backgroundColor, style(document.body).color,"
        " ...[...document.querySelectorAll('svg text')].map(text => style(text).fill)]"
    )
    assert (brightness(paper) < 128) == (scheme == "dark")
    assert abs(brightness(paper) - brightness(ink)) > 150
    assert plots
    assert all(abs(brightness(paper) - brightness(colour)) > 100 for colour in plots)


def test_plots_have_a_size_and_wide_tables_scroll_in_a_narrow_window(page):
    page.set_window_size(420, 900)
    sizes = page.execute_script(
        "return [...document.querySelectorAll('svg')].map(plot => plot.getBoundingClientRect().width)"
    )
    assert len(sizes) == 3
    assert all(200 < width <= 420 for width in sizes)
    assert page.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
