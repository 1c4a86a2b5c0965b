"""An attacker before the demo: other hosts, other sites, other files than drawings, and no end of bytes."""

import http.client
import io
import json
import shutil
import socket
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from helpers import make_digits, save_classifier, write_dataset
from PIL import Image

from mnist_lightning.checkpoints.provenance import training_images
from mnist_lightning.checkpoints.read import Checkpoint, read_checkpoint
from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.data.format import FILES
from mnist_lightning.data.images import ImageDataset
from mnist_lightning.deploy import server as module
from mnist_lightning.deploy.demo import Demo, about, open_drawing
from mnist_lightning.deploy.server import Server
from mnist_lightning.errors import UserError
from mnist_lightning.model.classifier import MNISTClassifier


@contextmanager
def serving(share=False):
    """A server whose answers are the lengths of the drawings."""
    with Server(0, share) as server:
        arguments = (lambda drawing, asked: {"length": len(drawing), **asked}, {"model": "a net"})
        thread = threading.Thread(target=server.serve, args=arguments)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server, path="/", method="GET", body=None, **headers):
    """What it answers: the status, the headers and the body. A header that is None is left out."""
    host = f"{server.server_address[0]}:{server.server_port}"
    given = {"Host": host}
    if method == "POST":
        given |= {"Origin": f"http://{host}", "Content-Type": "image/png", "Content-Length": str(len(body or b""))}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection(*server.server_address, timeout=20)
    connection.putrequest(method, path, skip_host=True)
    for name, value in given.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    with answer:
        return answer.status, dict(answer.headers), answer.read()


def test_it_has_the_page_and_what_the_page_asks_for_and_nothing_else():
    with serving() as server:
        for path, start in {"/": b"<!doctype html>", "/page.css": b":root", "/page.js": b"//", "/about": b"{"}.items():
            status, headers, content = ask(server, path)
            assert (status, content[: len(start)]) == (200, start)
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert "Access-Control-Allow-Origin" not in headers
        assert json.loads(ask(server, "/read?x=1", "POST", b"123")[2]) == {"length": 3, "x": "1"}
        for path in ("/server.py", "/../demo.py", "/page.html", "/upload", "/docs", "/openapi.json", "/read"):
            assert ask(server, path)[0] == 404
        assert ask(server, "/", "POST", b"1")[0] == 404
        assert ask(server, "/", "PUT")[0] == 501


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "", None])
def test_under_another_name_it_has_nothing(host):
    with serving() as server:
        host = host and host.format(port=server.server_port)
        assert ask(server, Host=host)[0] == 404
        assert ask(server, "/read", "POST", b"1", Host=host)[0] == 404
        assert ask(server, Host=f"localhost:{server.server_port}")[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", None])
def test_another_sites_page_cannot_post(origin):
    with serving() as server:
        assert ask(server, "/read", "POST", b"1", Origin=origin)[0] == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Type": "text/plain"},
        {"Content_Length": "10000000"},
        {"Content_Length": "9" * 5000},
        {"Content_Length": "-1"},
        {"Content_Length": None, "Transfer_Encoding": "chunked"},
    ],
)
def test_what_is_no_drawing_is_not_read(headers):
    with serving() as server:
        status, answered, _ = ask(server, "/read", "POST", **headers)
        assert (status, answered["Connection"]) == (400, "close")


def test_who_says_nothing_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(module.Handler, "timeout", 0.2)
    with serving() as server, socket.create_connection(server.server_address) as silent:
        silent.settimeout(20)
        silent.sendall(b"POST /read HTTP/1.1\r\nHost: ")
        assert silent.recv(1) == b""
        assert ask(server)[0] == 200


def test_it_is_shared_under_a_secret_address_alone(monkeypatch):
    monkeypatch.setattr(module, "_lan_address", lambda: "127.0.0.2")  # as if the network were there
    with serving(share=True) as server, serving(share=True) as other:
        assert server.address == f"http://127.0.0.2:{server.server_port}{server.root}"
        assert len(server.root) == 10
        assert ask(server, server.root)[0] == ask(server, f"{server.root}page.js")[0] == 200
        assert ask(server, f"{server.root}read", "POST", b"1")[0] == 200
        for path in ("/", "/page.js", "/about", other.root, server.root[:-1], server.root.upper(), f"/x{server.root}"):
            assert ask(server, path)[0] == 404
        assert ask(server, "/read", "POST", b"1")[0] == 404
        assert ask(server, server.root, Host=f"localhost:{server.server_port}")[0] == 404
    with serving() as server:
        assert server.address == f"http://127.0.0.1:{server.server_port}"


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_a_drawing_is_a_png_of_no_more_pixels_than_anybody_draws():
    postscript = io.BytesIO()
    Image.new("RGB", (9, 9)).save(postscript, "EPS")
    jpeg = io.BytesIO()
    Image.new("RGB", (9, 9)).save(jpeg, "JPEG")
    whole = png(Image.new("RGBA", (480, 360)))
    assert open_drawing(whole).size == (480, 360)
    for drawing in (postscript.getvalue(), jpeg.getvalue(), b"", whole[:60], whole[:-30]):
        with pytest.raises(UserError, match="as a PNG"):
            open_drawing(drawing)
    with pytest.raises(UserError, match="at most 1,000,000 pixels, got 25,000,000"):
        open_drawing(png(Image.new("1", (5000, 5000))))
    with pytest.raises(UserError, match="a drawing"):
        open_drawing(png(Image.new("1", (15_000, 15_000))))


def test_an_answer_to_a_drawing_says_where_and_why():
    images, labels = make_digits(50)
    demo = Demo(MNISTClassifier(hidden=[16], activation="tanh"))
    page = np.full((360, 480), 0, np.uint8)
    page[50:250, 60:70] = page[50:250, 360:370] = 255
    drawing = png(Image.fromarray(page))
    first, second = (demo.answer(drawing, {"x": x, "y": "150", "label": "3"}) for x in ("60", "365"))
    assert (first["chosen"], second["chosen"], first["asked"]) == (0, 1, 3)
    assert [digit["x"] for digit in first["digits"]] == [pytest.approx(60, abs=4), pytest.approx(360, abs=4)]
    assert sum(first["shares"]) == pytest.approx(1, abs=1e-4)
    assert len(first["units"]["shown"]) == 8 and first["units"]["count"] == 16
    assert first["alike"]["shown"] == []
    demo.remember(ImageDataset(torch.from_numpy(images), torch.from_numpy(labels).long()))
    assert len(demo.answer(drawing, {})["alike"]["shown"]) == 3
    assert json.loads(json.dumps(first)) == first
    assert demo.answer(drawing, {"x": "nan", "y": "-inf", "label": "x"})["asked"] == first["answer"]
    with pytest.raises(UserError, match="label from 0 to 9, got 10"):
        demo.answer(drawing, {"label": "10"})
    assert "Nothing to read" in demo.answer(png(Image.new("RGBA", (480, 360))), {})["message"]


@pytest.mark.parametrize(
    ("options", "heading", "note"),
    [
        ({"hidden": []}, "Labels awake", "the one that is most awake is the answer"),
        ({"hidden": [16]}, "Hidden units awake", "the number its vote on 3"),
        ({"hidden": [16, 8]}, "Hidden units awake", "the layers after it decide"),
        ({"net": "lenet5"}, "Hidden units awake", "every part of the drawing"),
    ],
    ids=["none", "one", "two", "convolutions"],
)
def test_the_page_speaks_of_units_as_what_they_are(tmp_path, options, heading, note):
    page = np.zeros((360, 480), np.uint8)
    page[50:250, 60:70] = 255
    model = MNISTClassifier(**options)
    with torch.no_grad():
        model.net[-1].bias -= 10  # all labels sleep
        model.net[-1].bias[7] += 9  # and one the least
    answer = Demo(model).answer(png(Image.fromarray(page)), {"label": "3"})
    assert about(Checkpoint(tmp_path / "best.ckpt", {}), model)["units"] == heading
    assert note in answer["units"]["note"]
    shown = answer["units"]["shown"]
    if options == {"hidden": []}:
        assert max(shown, key=lambda unit: unit["output"])["label"] == answer["answer"]
    assert {unit["label"] is None for unit in shown} == {options != {"hidden": []}}
    assert {unit["vote"] is None for unit in shown} == {options != {"hidden": [16]}}


def test_training_images_are_those_that_it_was_trained_on_or_none(tmp_path):
    folder = write_dataset(tmp_path / "digits", train=60)
    data = MNISTDataModule(str(folder))
    data.setup("fit")
    checkpoint = read_checkpoint(save_classifier(MNISTClassifier(hidden=[16]), tmp_path / "best.ckpt", data))
    found, demo = training_images(checkpoint), Demo(checkpoint.classifier())
    assert torch.equal(found.tensors[0], data.train_images.tensors[0])
    demo.remember(found)
    assert "The nearest of its 60 training and validation images" in demo.alike  # some of which were held out
    other = write_dataset(tmp_path / "other", train=60, seed=1)
    for name in FILES[:2]:  # beside the same test images
        shutil.copy(other / name, folder / name)
    assert training_images(checkpoint) is None


def test_the_page_says_what_the_model_is_and_how_it_tested(tmp_path):
    model = MNISTClassifier(hidden=[32, 16])
    for name in ("best", "last"):
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        (tmp_path / f"checkpoints/{name}.ckpt").touch()
    best, last = (Checkpoint(tmp_path / f"checkpoints/{name}.ckpt", {}) for name in ("best", "last"))
    assert about(best, model)["model"] == "SimpleNet, 32 and 16 hidden units, 25,818 parameters."
    linear, small = MNISTClassifier(hidden=[]), MNISTClassifier(net="small")
    assert about(best, linear)["model"] == "SimpleNet, no hidden units, 7,850 parameters."
    assert about(best, small)["model"] == "SmallNet, 8,694 parameters."  # of hidden layers it has convolutions
    assert "not known" in about(best, model)["tested"]
    (tmp_path / "test").mkdir()
    metrics = tmp_path / "test/metrics.json"
    metrics.write_text(json.dumps({"accuracy": 0.979, "num_samples": 10_000, "dataset": "mnist"}))
    assert about(best, model)["tested"] == "It read 97.90% of 10,000 test images of mnist right."
    assert "not known" in about(last, model)["tested"]  # which is not what was tested
    metrics.write_text('{"accuracy": "high"}')
    assert "not known" in about(best, model)["tested"]
