"""A page where one draws a digit and sees what a classifier makes of it while it is drawn.

Gradio's, without what it asks of the network: it is served at 127.0.0.1, and loads and reports nothing.
"""

import base64
import io
import socket
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import uvicorn
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image

from mnist_lightning.errors import UserError
from mnist_lightning.handwriting.to_mnist import to_mnist
from mnist_lightning.model.base import BaseClassifier
from mnist_lightning.reporting.plots import data_url, png

HOST = "127.0.0.1"

PAGE = Path(__file__).with_name("page")  # its HTML, CSS and JavaScript


def build(model: BaseClassifier) -> gr.Blocks:
    """Builds the page.

    Args:
        model: Reads the digits that are drawn.
    """
    blank: dict[str, Any] = {"shares": [{}] * len(model.classes)}  # the answer to nothing
    model.eval()  # once: answers to two drawings may be worked out at the same time

    def answer(drawing: str | None) -> dict[str, Any]:
        image = to_mnist(_picture(drawing)) if drawing else None
        if image is None:
            return blank
        labels, probabilities = model.predict(image[None])
        return _answer(image, int(labels[0]), probabilities[0])

    page = gr.Blocks(title="Draw a digit", analytics_enabled=False)
    with page, gr.Row():
        with gr.Column():
            with gr.Row():
                gr.Markdown("# Draw a digit")
                clear = gr.Button("Clear", scale=0, min_width=96, size="md")
            paper = gr.HTML(
                html_template=_read("paper.html"), css_template=_read("paper.css"), js_on_load=_read("paper.js")
            )
        with gr.Column():
            view = gr.HTML(
                blank, html_template=_read("answer.html"), css_template=_read("answer.css"), apply_default_css=False
            )
        # While an answer is on its way the drawing goes on; always_last asks again for the newest, without a queue.
        paper.change(answer, paper, view, queue=False, show_progress="hidden", trigger_mode="always_last")
        clear.click(None, None, paper, js="() => null")
    return page


def _read(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def _picture(drawing: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(drawing.partition(",")[2])))


def _answer(image: NDArray[np.uint8], label: int, probabilities: NDArray[np.float32]) -> dict[str, Any]:
    """What the page shows of an answer."""
    return {
        "seen": data_url(png(Image.fromarray(image))),
        "label": label,
        "shares": [{"share": f"{share:.1%}", "first": number == label} for number, share in enumerate(probabilities)],
    }


def listen(port: int) -> socket.socket:
    """Opens a port of this machine to this machine alone.

    Args:
        port: 0 for any that is free.

    Raises:
        UserError: It is taken, or is none.
    """
    try:
        return socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen on port {port} ({error}); give another --port, or 0 for any") from error


def serve(page: gr.Blocks, listener: socket.socket) -> None:
    """Serves a page until Ctrl-C or SIGTERM."""
    theme = gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono="monospace")
    app = gr.mount_gradio_app(
        FastAPI(),
        page,
        path="/",
        theme=theme,
        css=_read("page.css"),
        footer_links=[],
        run_history=False,
        ssr_mode=False,
    )
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listener])
