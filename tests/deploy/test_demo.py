"""The page to draw on: a real process, a real browser, a real pointer. Nothing of it comes from another machine."""

import os
import re
import signal
from contextlib import contextmanager

import pytest
from helpers import CHROMIUM, CHROMIUM_FLAGS, ROOT, Script, refused, run_script, save_classifier

from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.deploy.server import Server
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
def demo(checkpoint, *options, env=None):
    """Runs scripts/demo.py at a free port, and gives that and its address."""
    script = Script("demo.py", checkpoint, "--port", 0, *options, cwd=checkpoint.parent, env=env, real=env is not None)
    try:
        address = re.search(r"http://\d+\.\d+\.\d+\.\d+:\d+\S*", script.wait_for(r"http://.*\n").printed)
        assert address, script.result()
        yield script, address[0]
    finally:
        script.kill()


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
    """The address of a net that reads digits, and has its training images beside it."""
    folder = tmp_path_factory.mktemp("reader")
    data = MNISTDataModule(str(folder / "digits"), source="sample")
    data.prepare_data()
    data.setup("fit")
    checkpoint = save_classifier(reader, folder / "reader.ckpt", data)
    with demo(checkpoint) as (_, address):
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
        page.wait_for_selector("#answer li:nth-child(10)")
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
    return page.locator("#answer li").evaluate_all(
        f"rows => rows.map(row => [...{text}, row.querySelector('i').style.width])"
    )


@pytest.mark.parametrize("pointer", WIDTHS)
def test_a_1_is_drawn_and_read(browser, readers_page, pointer):
    from playwright.sync_api import expect

    with visit(browser, readers_page, **WIDTHS[pointer]) as (page, _):
        answer, first, seen = page.locator("output"), page.locator("li.first"), page.locator("#answer img")
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


def end(script, signum):
    """Sends a signal and returns the exit code; it has nothing more to say."""
    said = script.printed
    result = script.send_signal(signum).result()
    assert (result.stdout, result.stderr) == (said, "")
    return result.returncode


def test_nothing_comes_from_another_machine(untrained, browser, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WATCH.format(log=str(tmp_path / "log")))
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    with demo(untrained, env=env) as (script, address), visit(browser, address) as (page, requests):
        with drawn(page, [(0.3, 0.3), (0.7, 0.7)]):
            page.wait_for_selector("#answer img")
        page.wait_for_load_state("networkidle")
        assert end(script, signal.SIGTERM) == -signal.SIGTERM  # though the page is open
    assert f"{address}/page.css" in "\n".join(requests)
    assert [url for url in requests if not url.startswith((f"{address}/", "data:", "blob:"))] == []
    assert not (tmp_path / "log").exists(), (tmp_path / "log").read_text()


def test_ctrl_c_ends_it_while_a_page_is_open(untrained, browser):
    with demo(untrained) as (script, address), visit(browser, address):
        assert end(script, signal.SIGINT) == 130


def test_what_it_cannot_use_it_says_in_a_line(untrained, tmp_path):
    refused(run_script("demo.py", "missing.ckpt", cwd=tmp_path), "missing.ckpt", "no such file")


def test_a_port_that_is_not_to_be_had_is_named(untrained, tmp_path):
    with Server(0) as taken:
        refused(run_script("demo.py", untrained, "--port", taken.server_port, cwd=tmp_path), "port ", "--port")
    with pytest.raises(UserError, match=r"port 65536 .*--port"):
        Server(65536)


def test_several_digits_are_read_and_each_can_be_asked_about(browser, readers_page):
    from playwright.sync_api import expect

    with visit(browser, readers_page, **WIDTHS["mouse"]) as (page, _):
        for x in (0.2, 0.5, 0.8):
            with drawn(page, [(x, 0.2), (x, 0.8)]):
                pass
        with drawn(page, [(0.72, 0.25), (0.8, 0.2)]):
            pass
        buttons = page.locator("#read button")
        expect(buttons).to_have_text(["1", "1", re.compile("[17]")])
        expect(page.locator("#boxes div")).to_have_count(3)
        expect(buttons.nth(2)).to_have_attribute("aria-pressed", "true")  # the one that was drawn last
        buttons.nth(0).click()
        expect(buttons.nth(0)).to_have_attribute("aria-pressed", "true")
        page.locator("#answer li button").nth(8).click()
        expect(page.locator("#why h2")).to_have_text("Why 8?")
        page.get_by_role("button", name="Undo").click()
        page.get_by_role("button", name="Undo").click()
        expect(page.locator("#boxes div")).to_have_count(2)


@pytest.mark.parametrize("size", [(1920, 1080), (1280, 800), (390, 844)])
def test_it_says_why_on_every_screen_without_scrolling_sideways(browser, readers_page, size):
    from playwright.sync_api import expect

    with visit(browser, readers_page, viewport=dict(zip(("width", "height"), size, strict=True))) as (page, _):
        with drawn(page, [(0.3, 0.2), (0.7, 0.2), (0.5, 0.9)]):
            expect(page.locator("#evidence img")).to_have_count(1)
        expect(page.locator("#units img")).to_have_count(8)
        expect(page.locator("#alike img")).to_have_count(3, timeout=60_000)
        expect(page.locator("#method")).to_contain_text("Gradient times pixel")
        beyond = (
            "[document.documentElement.scrollWidth - innerWidth, document.documentElement.scrollHeight - innerHeight]"
        )
        wide, high = page.evaluate(beyond)
        assert wide <= 0
        assert high <= 0 or size[0] < 800
        assert page.locator("#answer ol").bounding_box()["y"] < 0.6 * size[1]  # beside, or right below, the paper


def test_a_drawing_that_is_too_small_is_told_so(browser, readers_page):
    from playwright.sync_api import expect

    with visit(browser, readers_page, **WIDTHS["mouse"]) as (page, _):
        with drawn(page, [(0.5, 0.5), (0.51, 0.51)]):
            pass
        expect(page.locator("#message")).to_contain_text("too small to read")


GIVE = """async ([how, name, type, bytes]) => {
    const given = new DataTransfer();
    given.items.add(new File([Uint8Array.from(bytes)], name, { type }));
    const event = how === "drop" ? new DragEvent("drop", { dataTransfer: given, cancelable: true })
        : new ClipboardEvent("paste", { clipboardData: given });
    document.body.dispatchEvent(new event.constructor(how, { ...event, bubbles: true, cancelable: true,
        dataTransfer: given, clipboardData: given }));
}"""


@pytest.mark.parametrize("how", ["choose", "drop", "paste"])
def test_a_photograph_is_read_wherever_its_digits_lie(browser, readers_page, how):
    from playwright.sync_api import expect

    photograph = ROOT / "samples/pencil_425.png"
    with visit(browser, readers_page, **WIDTHS["mouse"]) as (page, requests):
        with drawn(page, [(0.5, 0.2), (0.5, 0.8)]):
            pass
        if how == "choose":
            page.locator("#file").set_input_files(photograph)
        else:
            page.evaluate(GIVE, [how, photograph.name, "image/png", list(photograph.read_bytes())])
        buttons, boxes = page.locator("#read button"), page.locator("#boxes div")
        expect(buttons).to_have_count(3, timeout=60_000)
        paper = page.locator("canvas").bounding_box()
        places = [boxes.nth(number).bounding_box() for number in range(3)]
        assert all(paper["x"] < place["x"] < paper["x"] + paper["width"] - place["width"] for place in places)
        middle = places[2]["x"] + places[2]["width"] / 2, places[2]["y"] + places[2]["height"] / 2
        page.mouse.click(*middle)  # a tap asks about that digit, and draws nothing
        expect(buttons.nth(2)).to_have_attribute("aria-pressed", "true")
        expect(boxes).to_have_count(3)
        page.get_by_role("button", name="Clear").click()
        expect(boxes).to_have_count(0)
        expect(page.locator("#message")).to_contain_text("drop a picture")
        assert [url for url in requests if not url.startswith((readers_page, "data:"))] == []


def test_what_is_no_picture_is_told_so(browser, readers_page):
    from playwright.sync_api import expect

    with visit(browser, readers_page, **WIDTHS["mouse"]) as (page, _):
        page.evaluate(GIVE, ["drop", "notes.txt", "text/plain", [1, 2, 3]])
        expect(page.locator("#message")).to_contain_text("give a picture")


def test_it_speaks_of_pictures_where_classes_are_no_digits(browser, tmp_path):
    from playwright.sync_api import expect

    names = ["leaf", "stone", *(f"thing {number}" for number in range(45))]
    net = MNISTClassifier(classes=names, image_shape=(16, 20, 3), hidden=[8])
    checkpoint = save_classifier(net, tmp_path / "things.ckpt")
    with demo(checkpoint) as (_, address), visit(browser, address, **WIDTHS["mouse"]) as (page, _):
        page.locator("#file").set_input_files(ROOT / "samples/chalk_8.jpg")
        expect(page.locator("#answer img")).to_have_count(1)
        assert "digit" not in page.locator("body").inner_text().lower()
        shares = page.locator("#answer li span").all_inner_texts()
        assert len(shares) == 47
        box = page.locator("#answer").bounding_box()
        assert box["height"] < 800
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
