"""The page to draw on: a real process, a real browser, a real pointer. Nothing of it comes from another machine."""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
from helpers import CHROMIUM, CHROMIUM_FLAGS, ROOT, refused, run_script, save_classifier

from mnist_lightning.errors import UserError
from mnist_lightning.model.classifier import MNISTClassifier

WIDTHS = {"mouse": {"viewport": {"width": 1200, "height": 800}}}
WIDTHS["finger"] = {"viewport": {"width": 400, "height": 700}, "has_touch": True, "is_mobile": True}

# Python that writes down whom a process of its own speaks to
WATCH = """
import sys
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        with open({log!r}, "a") as log:
            print(event, args, file=log)
sys.addaudithook(watch)
"""


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """A checkpoint of a net that knows nothing."""
    return save_classifier(MNISTClassifier(hidden=[16]), tmp_path_factory.mktemp("untrained") / "untrained.ckpt")


@contextmanager
def demo(checkpoint, env=None):
    """Runs scripts/demo.py at a free port, and gives the process and its address."""
    pytest.importorskip("gradio")
    command = [sys.executable, ROOT / "scripts" / "demo.py", checkpoint, "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=checkpoint.parent, env=env, **pipes) as process:
        try:
            line = process.stdout.readline()
            address = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert address, line + process.stderr.read()
            yield process, address[0]
        finally:
            process.kill()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no browser is installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def readers_page(reader, tmp_path_factory):
    """The address of a net that reads digits."""
    with demo(save_classifier(reader, tmp_path_factory.mktemp("reader") / "reader.ckpt")) as (_, address):
        yield address


@contextmanager
def visit(browser, address, **options):
    """Opens the page, and gives it with the list of what it requests."""
    with browser.new_context(**options) as context:
        page, requests = context.new_page(), []
        page.set_default_timeout(60_000)
        page.on("request", lambda request: requests.append(request.url))
        page.on("websocket", lambda connection: requests.append(connection.url))
        page.goto(address)
        page.wait_for_selector("canvas")
        yield page, requests


@contextmanager
def drawn(page, points, pointer="mouse"):
    """Draws a stroke through points of the paper, shares of its sides; lifts the pointer at the end."""
    paper = page.locator("canvas").bounding_box()
    first, *rest = [(paper["x"] + x * paper["width"], paper["y"] + y * paper["height"]) for x, y in points]
    if pointer == "mouse":
        page.mouse.move(*first)
        page.mouse.down()
        for place in rest:
            page.mouse.move(*place, steps=10)
        yield
        page.mouse.up()
    else:
        session = page.context.new_cdp_session(page)  # Playwright's own finger can only tap

        def touch(kind, *places):
            touches = [{"x": x, "y": y} for x, y in places]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

        touch("touchStart", first)
        for place in rest:
            touch("touchMove", place)
        yield
        touch("touchEnd")


def shown(page):
    """Each digit with its share and the style of its bar, as they are at one moment, in the order of the page."""
    text = "['b', 'span'].map(cell => row.querySelector(cell).textContent)"
    return page.locator("li").evaluate_all(f"rows => rows.map(row => [...{text}, row.querySelector('i').style.width])")


@pytest.mark.parametrize("pointer", WIDTHS)
def test_a_1_is_drawn_and_read(browser, readers_page, pointer):
    from playwright.sync_api import expect

    with visit(browser, readers_page, **WIDTHS[pointer]) as (page, _):
        answer, first, seen = page.locator("output"), page.locator("li.first"), page.locator("figure img")
        with drawn(page, [(0.5, 0.2), (0.5, 0.5), (0.5, 0.8)], pointer):
            expect(answer).to_have_text("1", timeout=60_000)
            expect(first).to_have_text(re.compile(r"\s*1\s*(100|[5-9]\d)\.\d%\s*"))

        digits, shares, widths = zip(*shown(page), strict=True)
        assert digits == tuple("0123456789")
        assert sum(float(share.removesuffix("%")) for share in shares) == pytest.approx(100, abs=1)
        assert [f"{float(share.removesuffix('%')):g}%" for share in shares] == list(widths)
        assert seen.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [28, 28]
        assert page.evaluate("[scrollX, scrollY, document.documentElement.scrollWidth - innerWidth]") == [0, 0, 0]

        page.get_by_role("button", name="Clear").click()
        expect(answer).to_have_text("")
        expect(seen).to_have_count(0)
        assert shown(page) == [[digit, "", ""] for digit in "0123456789"]
        ink = "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean)"
        assert not page.locator("canvas").evaluate(ink)


def end(process, signum):
    """Sends a signal and returns the exit code; it has nothing more to say."""
    process.send_signal(signum)
    assert process.communicate(timeout=60) == ("", "")
    return process.returncode


def test_nothing_comes_from_another_machine(untrained, browser, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WATCH.format(log=str(tmp_path / "log")))
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with demo(untrained, env) as (process, address), visit(browser, address) as (page, requests):
        with drawn(page, [(0.3, 0.3), (0.7, 0.7)]):
            page.wait_for_selector("figure img")
        page.wait_for_load_state("networkidle")
        assert end(process, signal.SIGTERM) == -signal.SIGTERM  # though the page is open
    assert f"{address}/theme.css" in "\n".join(requests)
    assert [url for url in requests if not url.startswith((f"{address}/", "data:", "blob:"))] == []
    assert not (tmp_path / "log").exists(), (tmp_path / "log").read_text()


def test_ctrl_c_ends_it_while_a_page_is_open(untrained, browser):
    with demo(untrained) as (process, address), visit(browser, address):
        assert end(process, signal.SIGINT) == 130


def test_what_it_cannot_use_it_says_in_a_line(untrained, tmp_path):
    refused(run_script("demo.py", "missing.ckpt", cwd=tmp_path), "missing.ckpt", "no such file")
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['gradio'] = None")  # as if it were not there
    without = run_script("demo.py", untrained, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    refused(without, 'pip install -e ".[demo]"')


def test_a_port_that_is_not_to_be_had_is_named(untrained, tmp_path):
    pytest.importorskip("gradio")
    from mnist_lightning.deploy.demo import listen

    with listen(0) as taken:
        port = taken.getsockname()[1]
        refused(run_script("demo.py", untrained, "--port", port, cwd=tmp_path), f"port {port} ", "--port")
    with pytest.raises(UserError, match=r"port 65536 .*--port"):
        listen(65536)
