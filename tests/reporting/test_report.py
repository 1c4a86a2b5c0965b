"""The report on disk: figures, plots, and a page that stands alone."""

import io
import json
import re
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from helpers import CHROMIUM, CHROMIUM_FLAGS, ok, run_script
from PIL import Image

PLOTS = {"curves.png", "confusion_matrix.png", "mistakes.png"}


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
    for name in PLOTS:
        plot = Image.open(folder / name)
        assert min(plot.size) >= 100
        assert np.asarray(plot).std() > 5  # something is drawn


def test_a_run_that_diverges_is_reported_too(dataset, tmp_path):
    options = ("--data.data_dir", dataset, "--max_epochs", 2, "--model.lr", "1e30")
    result = run_script("train.py", *options, cwd=tmp_path)  # torchmetrics warns of the NaN
    assert (result.returncode, "loss nan" in result.stdout) == (0, True), result.stderr
    out = tmp_path / "lightning_logs" / "version_0" / "test"
    assert json.loads((out / "metrics.json").read_text(), parse_constant=pytest.fail)["loss"] is None  # NaN is no JSON
    assert (out / "curves.png").exists()


def test_testing_a_checkpoint_leaves_the_same(folder, tmp_path):
    (best,) = folder.parent.glob("checkpoints/best.ckpt")
    ok(run_script("test.py", best, "--output", tmp_path / "out", cwd=tmp_path))
    for name in ("confusion_matrix.png", "mistakes.png"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
    # the checkpoint of the best epoch knows training up to there
    assert (tmp_path / "out" / "curves.png").exists()


def test_the_page_says_what_the_metrics_say(folder):
    results = json.loads((folder / "metrics.json").read_text())
    page = (folder / "report.html").read_text()
    assert f"{results['accuracy']:.2%}" in page
    assert results["sha256"] in page
    for row in results["per_class"]:
        cells = (row["class"], *(f"{row[name]:.4f}" for name in ("precision", "recall", "f1")), row["support"])
        assert "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>" in page
    assert "<td>hidden</td><td>[4]</td>" in page


def test_the_page_names_nothing_outside_itself(folder):
    page = (folder / "report.html").read_text()
    addresses = re.findall(r'(?:src|srcset|href)="(.*?)"', page)
    assert len(addresses) == len(set(addresses)) == len(PLOTS)  # each is there once, for the light theme and the dark
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    assert "http" not in re.sub(r"data:image/png;base64,[\w+/=]+", "", page)


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
def test_dark_plots_melt_into_a_dark_page_and_blue_stays_blue(folder):
    playwright = pytest.importorskip("playwright.sync_api")
    with (
        playwright.sync_playwright() as driver,
        driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS) as browser,
    ):
        page = browser.new_page(color_scheme="dark")
        page.goto((folder / "report.html").as_uri())
        matrix = page.get_by_alt_text("Confusion matrix")
        shown = np.asarray(Image.open(io.BytesIO(matrix.screenshot())).convert("RGB"), int)
        colour = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
    paper = [int(part) for part in re.findall(r"\d+", colour)]
    assert np.abs(shown[2, 2] - paper).max() <= 1
    digit = np.diag(json.loads((folder / "metrics.json").read_text())["confusion_matrix"]).argmax()
    right = shown[56 + 46 * digit + 3, 56 + 46 * digit + 3]  # a cell of 46 pixels, under and beside 56 of words
    assert right[2] > right[0]
