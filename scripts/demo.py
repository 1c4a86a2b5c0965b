"""Opens a page where one draws digits, or drops pictures, and sees what a classifier makes of them, and why."""

import threading

from mnist_lightning.console.startup import importing

with importing():
    from mnist_lightning.checkpoints.provenance import training_images
    from mnist_lightning.checkpoints.read import read_checkpoint
    from mnist_lightning.console.messages import one_line_errors
    from mnist_lightning.console.parser import Parser
    from mnist_lightning.deploy.demo import Demo, about
    from mnist_lightning.deploy.server import Server


def main() -> None:
    parser = Parser(description=__doc__, usage="%(prog)s CKPT [--port PORT] [--share_on_lan]")
    parser.add_argument("ckpt", help="A run's folder, for its best checkpoint, or a .ckpt file.")
    parser.add_argument("--port", type=int, default=7860, help="Port of this machine for the page; 0 takes a free one.")
    parser.add_argument(
        "--share_on_lan",
        action="store_true",
        help="Show the page to the local network, a class say, at an address with a secret word in it.",
    )
    args = parser.parse_args()
    checkpoint = read_checkpoint(args.ckpt)
    demo = Demo(checkpoint.classifier())
    server = Server(args.port, args.share_on_lan)
    print(f"draw at {server.address}  (Ctrl-C ends it)", flush=True)
    threading.Thread(target=lambda: demo.remember(training_images(checkpoint)), daemon=True).start()
    server.serve(demo.answer, about(checkpoint, demo.model))


if __name__ == "__main__":
    with one_line_errors():
        main()
