"""A page where one draws a digit and sees what a classifier makes of it while it is drawn.

Gradio's, without what it asks of the network: it is served at 127.0.0.1, and loads and reports nothing.
"""

import base64
import io
import socket
from typing import Any

import gradio as gr
import numpy as np
import uvicorn
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image

from mnist_lightning.data.format import CLASSES
from mnist_lightning.errors import UserError
from mnist_lightning.handwriting.to_mnist import to_mnist
from mnist_lightning.model.base import BaseClassifier
from mnist_lightning.reporting.plots import data_url, png

HOST = "127.0.0.1"

PAPER = '<canvas width="560" height="560" role="img" aria-label="Paper to draw on"></canvas>'
PAPER_STYLE = """
    canvas {
        display: block; box-sizing: border-box; width: 100%; cursor: crosshair; touch-action: none;
        color: var(--body-text-color); background: var(--input-background-fill);
        border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg);
    }
"""
# Ink on nothing. A new value, the drawing as a data: URL, is Gradio's change event; one that is empty clears the paper.
PAPER_SCRIPT = """
    const canvas = element.querySelector("canvas"), pen = canvas.getContext("2d");
    let last = null;

    function draw(event) {
        const place = canvas.getBoundingClientRect(), scale = canvas.width / place.width;
        const style = { lineCap: "round", lineWidth: canvas.width / 15, strokeStyle: getComputedStyle(canvas).color };
        Object.assign(pen, style);
        for (const { clientX, clientY } of [...(event.getCoalescedEvents?.() ?? []), event]) {
            const next = [(clientX - place.left) * scale, (clientY - place.top) * scale];
            pen.beginPath();
            pen.moveTo(...(last ?? next));
            pen.lineTo(...next);
            pen.stroke();
            last = next;
        }
        props.value = canvas.toDataURL();
    }

    canvas.addEventListener("pointerdown", event => {
        if (!event.isPrimary || event.button) return;
        canvas.setPointerCapture(event.pointerId);
        draw(event);
    });
    canvas.addEventListener("pointermove", event => { if (last && event.isPrimary) draw(event); });
    canvas.addEventListener("lostpointercapture", () => { last = null; });
    watch("value", () => { if (!props.value) pen.clearRect(0, 0, canvas.width, canvas.height); });
"""

ANSWER = """
    <figure>
        {{#if value.seen}}<img src="{{value.seen}}" alt="28x28 pixels">{{else}}<div></div>{{/if}}
        <figcaption>what the network saw</figcaption>
        <output>{{value.label}}</output>
    </figure>
    <ol>{{#each value.shares}}
        <li{{#if first}} class="first"{{/if}}><b>{{@index}}</b><div><i style="width: {{share}}"></i></div
            ><span>{{share}}</span></li>
    {{/each}}</ol>
"""
ANSWER_STYLE = """
    display: grid; grid-template-columns: auto 1fr; gap: 1.25em; font-size: 1rem; color: var(--body-text-color);
    figure, ol { margin: 0; padding: 0 }
    figure img, figure div { width: 7em; height: 7em; background: #000; image-rendering: pixelated }
    figcaption { font-size: .7em; line-height: 2; opacity: .8 }
    output { display: block; width: 1.4em; font-size: 5em; line-height: 1.4; font-weight: bold; text-align: center }
    li { display: flex; gap: .6em; align-items: center; height: 1.5em; font-variant-numeric: tabular-nums }
    li b { width: .7em; font-weight: inherit }
    li div { flex: 1; height: .8em; overflow: hidden; background: var(--border-color-primary); border-radius: .2em }
    li i { display: block; width: 0; height: 100%; background: var(--color-accent); transition: width .15s }
    li span { width: 3.7em; text-align: right }
    li:not(.first) i { opacity: .5 }
    .first { font-weight: bold }
    @media (min-width: 800px) {
        font-size: 1.25rem; margin: 2.5em 0 0 .75em;
        li { height: 2em }
    }
"""
BLANK: dict[str, Any] = {"shares": [{}] * CLASSES}  # the answer to nothing

PAGE_STYLE = ".html-container { --block-padding: 0 }"  # it would indent what Gradio does not frame


def build(model: BaseClassifier) -> gr.Blocks:
    """Builds the page.

    Args:
        model: Reads the digits that are drawn.
    """
    model.eval()  # once: answers to two drawings may be worked out at the same time

    def answer(drawing: str | None) -> dict[str, Any]:
        digit = to_mnist(_image(drawing)) if drawing else None
        if digit is None:
            return BLANK
        labels, probabilities = model.predict(digit[None])
        return _answer(digit, int(labels[0]), probabilities[0])

    page = gr.Blocks(title="Draw a digit", analytics_enabled=False)
    with page, gr.Row():
        with gr.Column():
            with gr.Row():
                gr.Markdown("# Draw a digit")
                clear = gr.Button("Clear", scale=0, min_width=96, size="md")
            paper = gr.HTML(html_template=PAPER, css_template=PAPER_STYLE, js_on_load=PAPER_SCRIPT)
        with gr.Column():
            view = gr.HTML(BLANK, html_template=ANSWER, css_template=ANSWER_STYLE, apply_default_css=False)
        # While an answer is on its way the drawing goes on; always_last asks again for the newest, without a queue.
        paper.change(answer, paper, view, queue=False, show_progress="hidden", trigger_mode="always_last")
        clear.click(None, None, paper, js="() => null")
    return page


def _image(drawing: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(drawing.partition(",")[2])))


def _answer(digit: NDArray[np.uint8], label: int, probabilities: NDArray[np.float32]) -> dict[str, Any]:
    """What the page shows of an answer."""
    return {
        "seen": data_url(png(Image.fromarray(digit))),
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
        FastAPI(), page, path="/", theme=theme, css=PAGE_STYLE, footer_links=[], run_history=False, ssr_mode=False
    )
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listener])
