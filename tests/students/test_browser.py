"""The page of `kcframe serve` in a real browser."""

from __future__ import annotations

import pytest
from PIL import Image

import kcframe
from tests.students.browser import Browser, installed
from tests.students.test_serve import served

pytestmark = pytest.mark.skipif(
    not installed(), reason="needs Chromium: apt-get install chromium chromium-driver"
)


@pytest.fixture(scope="module")
def classifier(finished):
    return kcframe.load(finished)


@pytest.fixture(scope="module")
def page(classifier):
    """A browser with the page open, and the page's address."""
    with served(classifier) as port, Browser() as browser:
        url = f"http://127.0.0.1:{port}/"
        browser.open(url)
        yield browser, url


ROWS = "return [...document.querySelectorAll('#top li')].map(row => row.textContent)"


def test_a_chosen_picture_is_told(page, classifier, pictures):
    browser, _ = page
    file = str(pictures / "test/<b>wren/0.png")
    browser.choose("#file", file)
    browser.until("return document.querySelectorAll('#top li').length == 5")
    expected = classifier.predict([file])[0]
    for row, guess in zip(browser.run(ROWS), expected, strict=True):
        assert row.startswith(f"{guess.name} {100 * guess.probability:.1f}% {', '.join(guess.verticals)}")
    # The class "<b>wren" is text: the page has one <b> a row, its own.
    assert browser.run("return document.querySelectorAll('#top b').length") == 5
    assert browser.run("return document.getElementById('picture').naturalWidth") == 24
    assert browser.run("return document.querySelector('#top .bar').getBoundingClientRect().width") > 0


def test_a_bad_picture_is_told_why(page, tmp_path):
    browser, _ = page
    (tmp_path / "bad.png").write_bytes(b"<!doctype html>")
    browser.choose("#file", str(tmp_path / "bad.png"))
    browser.until("return document.getElementById('said').textContent.includes('it is an HTML page')")
    assert browser.run(ROWS) == []


def test_a_dropped_picture_is_told(page, tmp_path):
    browser, url = page
    browser.open(url)
    # What a drop brings, made in the page: a picture drawn there.
    browser.run(
        """
        const canvas = new OffscreenCanvas(20, 20);
        canvas.getContext('2d').fillRect(0, 0, 20, 20);
        canvas.convertToBlob().then(blob => {
          const data = new DataTransfer();
          data.items.add(new File([blob], 'drawn.png', {type: 'image/png'}));
          document.getElementById('drop').dispatchEvent(
            new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true}));
        });
        """
    )
    browser.until("return document.querySelectorAll('#top li').length == 5")


def test_when_the_server_is_gone_the_page_says_so(classifier, pictures):
    with Browser() as browser:
        with served(classifier) as port:
            browser.open(f"http://127.0.0.1:{port}/")
        browser.choose("#file", str(pictures / "test/mug/0.png"))
        browser.until("return document.getElementById('said').textContent.includes('does not answer')")


def test_a_page_of_predictions_opens_without_a_word_to_anyone(page, classifier, pictures, tmp_path):
    from kcframe.cli.predict import predict_pictures

    browser, _ = page
    out = tmp_path / "p.html"
    Image.new("RGB", (300, 10)).save(tmp_path / "wide.png")
    places = [str(pictures / "test"), str(tmp_path / "wide.png")]
    run = f"{classifier.run_dir}:{classifier.arm}"
    predict_pictures(run, places, 5, False, 64, device="cpu", html=str(out))
    browser.open(f"file://{out}")
    assert browser.run("return document.querySelectorAll('.card').length") == 21
    assert browser.run("return [...document.images].every(image => image.naturalWidth > 0)")
    assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth")
    # Nothing was fetched from anywhere.
    assert browser.run("return performance.getEntriesByType('resource').length") == 0
