"""The page in a browser, where there is one: ``pip install 'ctkd-lightning[browser]'`` and the system's Chromium."""

import io
import shutil

import pytest
from PIL import Image

from ctkd_lightning.reporting.page import write_report
from ctkd_lightning.reporting.runs import find_runs
from tests.reporting.made_up import comparison, summary_of

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

SIZES = [(390, 844), (1440, 900)]
THEMES = ["light", "dark"]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page over runs whose class names and settings are long, and their folder."""
    folder = tmp_path_factory.mktemp("runs")
    comparison(folder, [85.0, 86.0, 84.5], [86.5, 87.0, 86.2], [80.0, 81.0, 80.5], hardware={"processor": "x" * 200})
    return write_report(find_runs([str(folder)]), folder.parent / "page" / "report.html")


@pytest.fixture(params=[(size, theme) for size in SIZES for theme in THEMES], ids=lambda p: f"{p[0][0]}-{p[1]}")
def opened(request, browser, report):
    """The page at a width and in a theme, with what the browser complained of and asked for."""
    (width, height), theme = request.param
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
    page = context.new_page()
    page.complaints, page.requests = [], []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda asked: page.requests.append(asked.url))
    page.goto(report.as_uri())
    page.wait_for_load_state("networkidle")
    yield page
    context.close()


def test_it_fits_asks_for_nothing_and_does_not_complain(opened):
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith(("data:", "file:"))] == []
    assert len([url for url in opened.requests if url.startswith("file:")]) == 1
    width, inner = opened.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= inner


def test_each_figure_is_drawn(opened):
    images = opened.locator("figure img")
    assert images.count() >= 2
    for position in range(images.count()):
        image = images.nth(position)
        assert image.evaluate("i => i.complete && i.naturalWidth > 0")
        assert image.get_attribute("alt")
        with Image.open(io.BytesIO(image.screenshot())) as pixels:
            assert len(pixels.convert("RGB").getcolors(1 << 24)) > 20


def test_the_theme_is_followed_and_text_is_legible(opened, request):
    theme = request.node.callspec.params["opened"][1]
    paper, ink, soft = opened.evaluate(
        "['body', 'body', '.words-of-table'].map((s, i) => getComputedStyle(document.querySelector(s))"
        "[i ? 'color' : 'backgroundColor'])"
    )
    assert (luminance(paper) < 0.1) == (theme == "dark")
    assert contrast(paper, ink) >= 7
    assert contrast(paper, soft) >= 4.5


def test_the_numbers_are_those_of_the_files(opened, report):
    headings = opened.locator("#runs thead th").all_inner_texts()
    rows = [row.locator("th, td").all_inner_texts() for row in opened.locator("#runs tbody tr").all()]
    shown = [dict(zip(headings, row, strict=True)) for row in rows]
    assert len(shown) == 9
    for row in shown:
        kept = summary_of(report.parent.parent / row["run"])
        assert row["student, test top-1 %"] == f"{kept['student']['top1']:.2f}"
        assert row["teacher, test top-1 %"] == (f"{kept['teacher']['top1']:.2f}" if kept["teacher"] else "–")
    assert opened.locator("#results strong").all_inner_texts() == ["86.57 ± 0.40"]


def test_the_keyboard_reaches_everything(opened):
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.className") == "skip"
    assert opened.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    opened.keyboard.press("Enter")
    assert opened.evaluate("location.hash") == "#content"
    hidden = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth && e.tabIndex < 0)"
    assert opened.evaluate(f"{hidden}.length") == 0


def luminance(colour):
    """Of WCAG 2, of ``rgb(r, g, b)``."""
    parts = [int(part) / 255 for part in colour[4:-1].split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)
