"""What TensorBoard shows of a run besides its scalars: charts side by side, the net's graph, plots, HPARAMS."""

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import SummaryWriter

from mnist_lightning.data.datamodule import data_of
from mnist_lightning.data.images import channels_first
from mnist_lightning.errors import UserError
from mnist_lightning.metrics import ConfusionMatrix
from mnist_lightning.reporting import plots

CHARTS = {
    "train and validation": {name: ["Multiline", [f"train/{name}$", f"val/{name}$"]] for name in ("loss", "accuracy")}
}
GLANCE = "at a glance"  # TensorBoard sorts by name, so that these two curves are what it shows first
# It shows a picture 326 pixels wide and 230 high, or smaller
DIGITS, COLUMNS = 12, 4
NEURONS = 64
CELL = 18  # of a confusion matrix


class TensorBoardPlots(L.Callback):
    """Draws the confusion matrix after each epoch, and digits, mistakes and weights every few epochs and at the end.

    Args:
        every_n_epochs: Epochs from one drawing of digits, mistakes and weights to the next; 0 draws nothing at all.

    Raises:
        UserError: A negative number.
    """

    works_with_chunks = True

    def __init__(self, every_n_epochs: int = 10) -> None:
        if every_n_epochs < 0:
            raise UserError(f"expected --plots.every_n_epochs to be at least 0, got {every_n_epochs}; 0 draws nothing")
        self.every_n_epochs = every_n_epochs

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        for writer in _writers(trainer):
            writer.add_custom_scalars(CHARTS)
            blank = torch.zeros(1, *pl_module.image_shape, device=pl_module.device, dtype=pl_module.dtype)
            _add_graph(writer, pl_module.net, channels_first(blank, colour=blank.ndim == 4))

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._counts = ConfusionMatrix(len(pl_module.classes)).to(pl_module.device)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: tuple[Tensor, Tensor], *_: Any
    ) -> None:
        if isinstance(outputs, dict) and "logits" in outputs:  # a validation_step of a subclass's own may give others
            self._counts.update(outputs["logits"], batch[1])

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        counted = trainer.strategy.reduce_boolean_decision(self._counts.update_called, all=False)
        counts = self._counts.compute() if counted and not trainer.sanity_checking else None  # asks all processes
        if counts is not None and _takes_images(trainer):
            matrix = plots.confusion_matrix(counts.cpu().numpy(), pl_module.classes, CELL)
            _show(trainer, "confusion matrix", matrix)
            for writer in _writers(trainer) if trainer.state.fn == TrainerFn.FITTING else []:
                for name in ("accuracy", "loss"):
                    value = pl_module.history[f"val/{name}"][-1][1]
                    writer.add_scalar(f"{GLANCE}/validation {name}", value, trainer.global_step - 1)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.current_epoch % self.every_n_epochs:  # the last epoch was not drawn yet
            self._draw(trainer, pl_module)

    def _draw(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not _takes_images(trainer):
            return
        if (kernels := _kernels(pl_module.net, pl_module.image_shape)) is not None:
            _show(trainer, "first layer", plots.weights(kernels))
        data = data_of(trainer)
        if len(data.val_set):
            images, labels = (part.numpy() for part in data.val_set[torch.arange(len(data.val_set))])
            _, probabilities = pl_module.predict(images)
            for tag, chosen in (
                ("digits", np.arange(min(DIGITS, len(labels)))),
                ("worst mistakes", plots.worst(labels, probabilities, DIGITS)),
            ):
                shown = images[chosen], labels[chosen], probabilities[chosen]
                _show(trainer, tag, plots.answers(*shown, pl_module.classes, COLUMNS))


class HyperParameters(L.Callback):
    """Adds a run to the HPARAMS tab, and what the checkpoint that is tested had reached on validation."""

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Writes them once Lightning has written its own, which do not know what came of source auto."""
        data = data_of(trainer)
        used = {"data_dir": str(data.folder), "data_sha256": data.sha256}  # of a sample, the sample's
        options = {**pl_module.hparams, **data.hparams, **used}
        options |= {"seed": torch.initial_seed(), "epochs": trainer.max_epochs}
        given = {name: value for name, value in options.items() if value is not None}
        for logger in _loggers(trainer):
            logger.log_hyperparams(given)
        for writer in _writers(trainer):
            _add_hparams(writer, given)

    def on_test_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        reached = {name: points[-1][1] for name, points in pl_module.history.items() if name.startswith("val/")}
        for logger in _loggers(trainer):
            logger.log_metrics({f"tested/{name.replace('/', '_')}": value for name, value in reached.items()})


def _loggers(trainer: L.Trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _writers(trainer: L.Trainer) -> list[SummaryWriter]:
    """The TensorBoard writers of the first process; the others have none."""
    return [logger.experiment for logger in _loggers(trainer)] if trainer.is_global_zero else []


def _add_hparams(writer: SummaryWriter, options: Mapping[str, Any]) -> None:
    """Adds a run to HPARAMS as Lightning does, but for the list of columns, which TensorBoard makes itself without one.

    Then the options in which the runs differ come first, and none that one of them has is left out.
    """
    plain = {name: each if isinstance(each, bool | int | float | str) else str(each) for name, each in options.items()}
    _, *session = hparams(plain, {})
    for summary in session:
        writer._get_file_writer().add_summary(summary)


def _add_graph(writer: SummaryWriter, net: nn.Module, images: Tensor) -> None:
    """Adds a net's graph, traced without PyTorch's check of it, which imports half a second of its compiler."""
    with warnings.catch_warnings(action="ignore"):  # that a traced net is not traced again
        writer.add_graph(torch.jit.trace(copy.deepcopy(net).eval(), images, check_trace=False), images)


def _takes_images(trainer: L.Trainer) -> bool:
    takes = TensorBoardLogger | WandbLogger | MLFlowLogger
    return trainer.is_global_zero and any(isinstance(logger, takes) for logger in trainer.loggers)


def _show(trainer: L.Trainer, tag: str, plot: Image.Image) -> None:
    """Gives a plot to each logger that takes images, in its own way, at the last optimizer step."""
    step = trainer.global_step - 1
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(f"pictures/{tag}", np.asarray(plot), step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(tag, [plot], step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, plot, f"plots/{tag}/{step}.png")


def _kernels(net: nn.Module, image_shape: Sequence[int]) -> NDArray[np.float32] | None:
    """The weights (N, H, W) that look at the image, of the first layer that has any; None where they are no images."""
    high, wide, *_ = image_shape
    weight = next((each.detach().float().cpu() for each in net.parameters() if each.ndim > 1), torch.empty(0, 0))
    if weight.ndim == 4:  # a convolution's
        return weight.flatten(0, 1)[:NEURONS].numpy()
    looks = weight.shape[1:] == (math.prod(image_shape),)
    return weight[:NEURONS].unflatten(1, (-1, high, wide)).flatten(0, 1)[:NEURONS].numpy() if looks else None
