"""Opens a page where one draws a digit and sees what a checkpoint's classifier makes of it."""

import importlib.util

from mnist_lightning.console.startup import importing

with importing():
    from mnist_lightning.console.messages import one_line_errors
    from mnist_lightning.console.parser import Parser
    from mnist_lightning.errors import UserError
    from mnist_lightning.model.checkpoint import load_classifier


def main() -> None:
    parser = Parser(description=__doc__, usage="%(prog)s CKPT [--port PORT]")
    parser.add_argument("ckpt", help="A run's folder, for its best checkpoint, or a .ckpt file.")
    parser.add_argument("--port", type=int, default=7860, help="Port of 127.0.0.1 for the page; 0 takes a free one.")
    args = parser.parse_args()
    if not importlib.util.find_spec("gradio"):
        raise UserError('the page needs gradio; run pip install -e ".[demo]"')
    model = load_classifier(args.ckpt)
    with importing():  # 2 s that a wrong path need not wait for
        from mnist_lightning.deploy.demo import build, listen, serve
    listener = listen(args.port)
    print("draw at http://{}:{}  (Ctrl-C ends it)".format(*listener.getsockname()), flush=True)
    serve(build(model), listener)


if __name__ == "__main__":
    with one_line_errors():
        main()
