"""MNISTClassifier, the LightningModule: a net, its loss, its optimizer, its metrics, and the training step.

Lightning's work for each batch costs more than a training step of a net this small. So ``training_step`` also takes
chunks of batches, where nobody watches single ones (training/chunks.py): it steps the optimizer for each but the last,
which it leaves to Lightning. Every step is the one that the guide's loop would have taken, in the same bits.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from mnist_lightning.data.format import DIGITS, IMAGE_SHAPE
from mnist_lightning.metrics import LOSSES, LossName
from mnist_lightning.model.base import BaseClassifier
from mnist_lightning.model.bounds import check_options
from mnist_lightning.model.nets import Activation, NetName, build, sizes
from mnist_lightning.model.schedule import (
    OptimizerName,
    ScheduleName,
    build_optimizer,
    build_schedule,
    learning_rate,
    step_schedules,
)
from mnist_lightning.traced import MODULE_HOOKS, Step, StepTracer


class MNISTClassifier(BaseClassifier):
    """Trains a net.

    Args:
        net: The network: simple (hidden layers only), lenet5, convnet or small (few parameters).
        hidden: Neurons in each hidden layer, as a list: [256,128] is two layers. The net's own by default: [128] for
            simple and convnet, [120,84] for lenet5, none for small.
        channels: Feature maps of each convolution of convnet, [32,64,64] by default, or of small, [12,24,40,52,60].
        activation: The non-linearity after each convolution and hidden layer.
        dropout: Probability of zeroing each hidden output while training (0.2 to 0.5 regularizes).
        input_dropout: The same for each pixel, for simple.
        deslant: Stands each digit upright before the net sees it, by a shear.
        ink_width: Standard deviation of the ink across, in 28ths of the image, to stretch digits to; 0 does not.
        loss: What training lowers: cross_entropy, or mse, the squared error of the probabilities.
        label_smoothing: Share of each label that cross-entropy spreads over all classes while training.
        optimizer: adam, adamw (whose weight decay is not scaled with the gradient) or sgd.
        lr: Learning rate; the highest, for onecycle.
        weight_decay: L2 penalty on the weights (1e-5 to 1e-4 regularizes).
        betas: Decay of adam's and adamw's running means of the gradient and of its square.
        momentum: Decay of sgd's running sum of gradients.
        nesterov: Whether sgd looks ahead along it.
        scheduler: How the learning rate changes: step (times gamma every step_size epochs), plateau (times gamma when
            the validation loss has not improved for step_size epochs), cosine (down to 0 over the run), onecycle (up
            for 0.3 of the run, then down to 0, changing at every step) or none.
        step_size: Epochs between two changes of the learning rate.
        gamma: What the learning rate is multiplied by.
        warmup_epochs: Epochs in which cosine's learning rate rises to lr first.
        trace: Whether steps run from a trace, without autograd: faster, and the same bits; auto where that can be.
        classes: The names of the data's classes, in the order of the logits.
        image_shape: Height and width of its images, and 3 in colour.
        permute_pixels: Whether the net sees their pixels shuffled, which only simple can learn from.

    Raises:
        UserError: A value that cannot be.
    """

    def __init__(
        self,
        net: NetName = "simple",
        hidden: Sequence[int] | None = None,
        channels: Sequence[int] | None = None,
        activation: Activation = "relu",
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        deslant: bool = False,
        ink_width: float = 0.0,
        loss: LossName = "cross_entropy",
        label_smoothing: float = 0.0,
        optimizer: OptimizerName = "adam",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        betas: Sequence[float] = (0.9, 0.999),
        momentum: float = 0.9,
        nesterov: bool = False,
        scheduler: ScheduleName = "step",
        step_size: int = 10,
        gamma: float = 0.1,
        warmup_epochs: int = 0,
        trace: bool | Literal["auto"] = "auto",
        classes: Sequence[str] = DIGITS,
        image_shape: Sequence[int] = IMAGE_SHAPE,
        permute_pixels: bool = False,
    ) -> None:
        check_options(locals())
        super().__init__(loss, classes, image_shape)
        (hidden, channels), betas = sizes(net, hidden, channels), list(betas)
        classes, image_shape = self.classes, self.image_shape  # lists, as a checkpoint holds them
        self.save_hyperparameters(ignore="trace")
        options = {"hidden": hidden, "channels": channels, "activation": activation, "dropout": dropout}
        options |= {"image_shape": image_shape, "classes": len(classes), "input_dropout": input_dropout or None}
        self.net, self.trace = build(net, deslant, ink_width, permute_pixels, **options), trace
        smoothing = {"label_smoothing": label_smoothing} if label_smoothing else {}
        self._traced: tuple[Any, ...] = ()  # what there is a trace of
        self.loss = partial(LOSSES[loss], reduction="sum", **smoothing)

    def forward(self, images: Tensor) -> Tensor:
        """Maps float32 images (batch, 1, 28, 28) in [0, 1], or of ``image_shape``, to logits (batch, classes)."""
        return self.net(images)  # type: ignore[no-any-return]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        # Lightning cannot clip the gradients of a fused optimizer in mixed precision
        fused = not (self.trainer.gradient_clip_val and "mixed" in str(self.trainer.precision))
        optimizer = build_optimizer(self.hparams, self.parameters(), fused)
        schedule = build_schedule(self.hparams, optimizer, self.trainer)
        return {"optimizer": optimizer, "lr_scheduler": schedule} if schedule else optimizer  # type: ignore[return-value]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Any]:
        """Takes the optimizer steps of a chunk but the last, and returns the loss of that for Lightning to take.

        With it come the mean loss of each step, and its learning rate.
        """
        *chunk, last = [batch] if batch[1].ndim == 1 else zip(*batch, strict=True)
        take = (self._traced_step(*chunk[0]) if chunk else None) or self._step
        steps, rates = [], [learning_rate(self.trainer)]
        for images, labels in chunk:
            steps.append(take(images, labels))
            rates.append(step_schedules(self.trainer))
        logits = self(last[0])
        loss = self._mean_loss(logits, last[1])
        losses = self.measure_steps([*steps, (loss.detach(), logits.detach())], batch[1])
        if not chunk:
            self.log_dict({"train/loss_step": losses[-1], "lr": torch.tensor(rates[-1])})
        return {"loss": loss, "losses": losses, "rates": rates}

    def _traced_step(self, images: Tensor, labels: Tensor) -> Step | None:
        """A step for such batches, from a trace; None where others than the net give the logits, or change the loss."""
        plain = type(self).forward is MNISTClassifier.forward and "forward" not in vars(self)
        if not (self.trace and plain and type(self.loss) is partial) or any(getattr(self, h) for h in MODULE_HOOKS):
            return None
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        parts = self.net, self.loss, optimizer, bool(self.trainer.gradient_clip_val)
        if self._traced != parts:  # a callback may bring others
            clip = partial(self.clip_gradients, optimizer) if self.trainer.gradient_clip_val else None
            self._tracer = StepTracer(self.net, self._mean_loss, optimizer, clip, required=self.trace is True)
            self._traced = parts
        return self._tracer.step_for(images, labels)

    def _step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Takes an optimizer step as the guide does, and returns loss and logits."""
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        logits = self(images)
        loss = self._mean_loss(logits, labels)
        loss.backward()
        self.clip_gradients(optimizer)
        optimizer.step()
        return loss.detach(), logits.detach()

    def _mean_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        size: Any = float(len(labels))
        if self.trainer.world_size > 1:  # where a batch does not divide, processes differ by an image
            size = self.trainer.strategy.reduce(labels.new_full((), size, dtype=torch.float32), reduce_op="mean")
        return self.loss(logits, labels) / size  # type: ignore[no-any-return]
