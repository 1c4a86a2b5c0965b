"""The report on disk: figures, plots, and a page that stands alone."""

import io
import json
import re
import shutil
import subprocess
import threading
import xml.etree.ElementTree as ET
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from helpers import CHROMIUM, CHROMIUM_FLAGS, ok, run_script
from PIL import Image

PLOTS = {"loss.svg", "accuracy.svg", "confusion_matrix.svg"}


@pytest.fixture(scope="module")
def folder(dataset, tmp_path_factory):
    """The report of a net that has learned little, so that there are mistakes to show."""
    cwd = tmp_path_factory.mktemp("run")
    options = ("--data.data_dir", dataset, "--max_epochs", 2, "--model.hidden", "[4]")
    stdout = ok(run_script("train.py", *options, cwd=cwd))
    assert "lightning_logs/version_0/test/report.html" in stdout
    return cwd / "lightning_logs" / "version_0" / "test"


def test_a_run_leaves_figures_plots_and_a_page(folder):
    assert {path.name for path in folder.iterdir()} == PLOTS | {"metrics.json", "report.html"}
    page = (folder / "report.html").read_text()
    for name in PLOTS:
        plot = (folder / name).read_text()
        assert ET.fromstring(plot).tag == "{http://www.w3.org/2000/svg}svg"
        assert plot.partition("</style>")[2] in page


def test_a_run_that_diverges_is_reported_too(dataset, tmp_path):
    options = ("--data.data_dir", dataset, "--max_epochs", 2, "--model.lr", "1e30")
    result = run_script("train.py", *options, cwd=tmp_path)  # torchmetrics warns of the NaN
    assert (result.returncode, "loss nan" in result.stdout) == (0, True), result.stderr
    out = tmp_path / "lightning_logs" / "version_0" / "test"
    assert json.loads((out / "metrics.json").read_text(), parse_constant=pytest.fail)["loss"] is None  # NaN is no JSON
    assert (out / "accuracy.svg").exists()


def test_testing_a_checkpoint_leaves_the_same(folder, tmp_path):
    ok(run_script("test.py", folder.parent, "--output", tmp_path / "out", cwd=folder.parents[2]))
    for name in PLOTS:
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
    first, again = (json.loads((each / "metrics.json").read_text()) for each in (folder, tmp_path / "out"))
    assert {**first, "trained_on": None} == {**again, "trained_on": None}  # which says where the data was, besides


def test_a_checkpoint_alone_is_reported_with_what_it_knows(folder, tmp_path):
    shutil.copy(folder.parent / "checkpoints" / "best.ckpt", tmp_path / "mine.ckpt")
    ok(run_script("test.py", "mine.ckpt", "--output", "out", cwd=tmp_path))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<td>batch size</td><td>64</td>" in page
    assert "<td>seed</td>" not in page
    assert (tmp_path / "out" / "loss.svg").exists()


def test_the_page_says_what_the_metrics_say(folder):
    results = json.loads((folder / "metrics.json").read_text())
    page = (folder / "report.html").read_text()
    assert f"{results['accuracy']:.2%}" in page
    assert results["sha256"] in page
    for row in results["per_class"]:
        cells = (row["class"], *(f"{row[name]:.4f}" for name in ("precision", "recall", "f1")), row["support"])
        assert "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>" in page
    assert "<td>hidden</td><td>[4]</td>" in page.partition("Options that were changed")[2].partition("<details")[0]


def test_the_page_says_how_the_run_came_to_be(folder):
    run, page = folder.parent, (folder / "report.html").read_text()
    results = json.loads((folder / "metrics.json").read_text())
    environment = json.loads((run / "environment.json").read_text())
    history = json.loads((run / "training.json").read_text())["history"]["val/accuracy"]
    best = max(history, key=lambda point: point[1])[0]
    facts = dict(re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td></tr>", page))
    assert re.search("<h1>(.*?)</h1>", page)[1] == (
        f"SimpleNet reads {round(results['accuracy'] * 100)} of 100 test images of digits right"
    )
    assert facts["epochs"] == f"2; the best on validation was epoch {best}"
    assert facts["seed"] == "0"
    assert facts["batch size"] == "64"
    assert facts["distortions"] == "none"
    assert facts["parameters"] == f"{784 * 4 + 4 + 4 * 10 + 10:,}"
    assert facts["training took"] == f"{results['training']['seconds']:.1f} s"
    for name in ("date", "git_commit", "dataset_sha256", "torch", "lightning", "python"):
        assert str(environment[name] or "") in page  # outside of git there is no commit
    assert results["validation"] == {
        "epoch": best,
        "accuracy": dict(history)[best],
        "loss": dict(json.loads((run / "training.json").read_text())["history"]["val/loss"])[best],
    }


def test_the_page_has_what_else_the_run_was_asked_for(dataset, tmp_path):
    options = ("--data.data_dir", dataset, "--max_epochs=1", "--ema_decay=0.9", "--trainer.limit_train_batches=5")
    options += ("--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/loss")
    out = ok(run_script("train.py", *options, cwd=tmp_path))
    assert "\n        limited: limit_train_batches 5\n" in out
    page = (tmp_path / "lightning_logs/version_0/test/report.html").read_text()
    facts = dict(re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td></tr>", page.partition("Options that were changed")[2]))
    assert (facts["ema_decay"], facts["trainer.limit_train_batches"]) == ("0.9", "5")
    assert facts["trainer.callbacks"].startswith("lightning.pytorch.callbacks.EarlyStopping(monitor=")
    assert not {"trainer.max_steps", "trainer.devices", "trainer.precision", "ckpt_path"} & facts.keys()


def test_mistakes_come_as_the_caption_says_and_the_pairs_with_their_images(folder):
    page = (folder / "report.html").read_text()
    mistakes = re.findall(r"<figcaption><b>(\d)</b> for <b>(\d)</b><br>([\d.]+)%", page)
    sure = [float(share) for *_, share in mistakes]
    assert sure == sorted(sure, reverse=True)
    assert all(answer != true for answer, true, _ in mistakes)
    matrix = json.loads((folder / "metrics.json").read_text())["confusion_matrix"]
    pairs = re.findall(r"<b>(\d)</b> read as <b>(\d)</b> <span class=\"dim\">(\d+) of 10</span>(.*)", page)
    counts = [int(count) for *_, count, _ in pairs]
    assert counts == sorted((matrix[i][j] for i in range(10) for j in range(10) if i != j), reverse=True)[:6]
    for true, answer, count, images in pairs:
        assert matrix[int(true)][int(answer)] == int(count)
        assert images.count("<img ") == min(int(count), 5) == images.count(f'alt="{true}, read as {answer}"')


def test_several_runs_are_compared_with_their_ensemble(folder, dataset, tmp_path):
    options = ("--data.data_dir", dataset, "--max_epochs", 1, "--model.hidden", "[16]", "--name", "wide")
    ok(run_script("train.py", *options, cwd=tmp_path))
    members = (folder.parent, tmp_path / "lightning_logs" / "wide")
    told = ok(run_script("test.py", *members, "--output", "out", cwd=tmp_path))
    alone = [json.loads((member / "test" / "metrics.json").read_text()) for member in members]
    together = json.loads((tmp_path / "out" / "metrics.json").read_text())
    for row, member, single in zip(together["members"], members, alone, strict=True):
        assert row["name"] == str(member)
        assert row["accuracy"] == pytest.approx(single["accuracy"])
        assert row["loss"] == pytest.approx(single["loss"], rel=1e-4)
        assert row["validation_accuracy"] == single["validation"]["accuracy"]
        assert re.search(rf"^{re.escape(str(member))} .*  {single['accuracy']:.2%}  ", told, re.MULTILINE)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h1>An ensemble of 2 reads " in page
    assert f"<td>1</td><td>{members[0]}</td>" in page  # a phone shows the first columns
    assert "<td>hidden [16]</td>" in page
    assert "Validation accuracy" in page
    assert "epoch 1: 1 " in page


def test_the_page_names_nothing_outside_itself(folder):
    page = (folder / "report.html").read_text()
    addresses = re.findall(r'(?:src|srcset|href)="(.*?)"', page)
    assert addresses
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    rest = re.sub(r"data:image/png;base64,[\w+/=]+", "", page).replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search("http|url\\(|@import|<script", rest)


def test_what_a_stranger_named_is_shown_and_not_run(folder, tmp_path):
    run = tmp_path / "<script>alert(1)</script>"
    shutil.copytree(folder.parent / "checkpoints", run)
    ok(run_script("test.py", run / "best.ckpt", "--output", tmp_path / "out", cwd=tmp_path))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def requested(page, scratch):
    """The addresses that a browser asks for when it shows a page, and the page's own."""
    scratch.mkdir()
    (scratch / "page.html").write_text(page)
    handler = partial(SimpleHTTPRequestHandler, directory=scratch)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        own = f"http://127.0.0.1:{server.server_port}"
        log = scratch / "net.json"
        options = [
            *CHROMIUM_FLAGS,
            "--headless",
            f"--user-data-dir={scratch / 'profile'}",
            f"--log-net-log={log}",
            "--dump-dom",
        ]
        shown = subprocess.run(
            [CHROMIUM, *options, f"{own}/page.html"], capture_output=True, text=True, timeout=120, check=False
        )
        server.shutdown()
    assert "</html>" in shown.stdout
    # the browser's own requests, for updates and the like, have another initiator
    by_page = [line for line in log.read_text().splitlines() if f'"initiator":"{own}"' in line]
    return {url for line in by_page for url in re.findall(r'"url":"(.*?)"', line)}, own


@pytest.mark.skipif(CHROMIUM is None, reason="no browser is installed")
def test_the_page_opens_in_a_browser_without_a_request_to_anywhere(folder, tmp_path):
    page = (folder / "report.html").read_text()
    foreign = page.replace("<h1>", '<img src="http://192.0.2.1/tracker.png"><h1>')
    assert "http://192.0.2.1/tracker.png" in requested(foreign, tmp_path / "foreign")[0]  # so it would be seen
    addresses, own = requested(page, tmp_path / "page")
    assert addresses <= {f"{own}/favicon.ico"}  # which every browser asks for


@pytest.mark.skipif(CHROMIUM is None, reason="no browser is installed")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_overflows_and_a_touch_says_the_values(folder, scheme):
    playwright = pytest.importorskip("playwright.sync_api")
    with (
        playwright.sync_playwright() as driver,
        driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS) as browser,
    ):
        page = browser.new_page(color_scheme=scheme, viewport={"width": 390, "height": 844}, has_touch=True)
        page.goto((folder / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        small = "[...document.querySelectorAll('svg.plot text')].map(t => t.getBoundingClientRect().height)"
        assert min(height for height in page.evaluate(small) if height) >= 10  # of letters, in screen pixels
        chart = page.locator("svg.plot").first
        place = chart.bounding_box()
        said = chart.locator("g.said").last
        assert not said.is_visible()
        page.touchscreen.tap(place["x"] + place["width"] - 20, place["y"] + place["height"] / 2)
        assert said.is_visible()
        assert said.locator("text").text_content().startswith("epoch 2: train ")
        paper = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
        matrix = page.get_by_label("Confusion matrix")
        shown = np.asarray(Image.open(io.BytesIO(matrix.screenshot())).convert("RGB"), int)
        fill = matrix.locator(".true").first.evaluate("cell => getComputedStyle(cell).fill")
        turned = page.locator("img.ink").first.evaluate("image => getComputedStyle(image).filter")
    red, green, blue = map(int, re.findall(r"\d+", paper))
    assert np.abs(shown[-1, -1] - [red, green, blue]).max() <= 1  # plots melt into the page
    assert (red < 64) == (scheme == "dark")
    red, _, blue = map(int, re.findall(r"\d+", fill))
    assert blue > red  # what is right is blue
    assert turned == {"light": "none", "dark": "invert(0.9)"}[scheme]  # ink on paper, chalk on slate
