"""An ensemble: several classifiers that answer together."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mnist_lightning.errors import UserError
from mnist_lightning.model.base import BaseClassifier


class Ensemble(BaseClassifier):
    """Answers with the mean of its members' probabilities, as the committees, so called, of Meier et al. 2011 did.

    Args:
        members: Classifiers that map images to logits.

    Raises:
        UserError: There are none, or they are for different classes or images.
    """

    def __init__(self, members: Sequence[BaseClassifier]) -> None:
        if not members:
            raise UserError("expected an ensemble of at least one classifier, got none")
        kinds = [(member.classes, member.image_shape) for member in members]
        if any(kind != kinds[0] for kind in kinds):
            raise UserError("expected an ensemble of classifiers for the same classes and images, got different ones")
        super().__init__("cross_entropy", *kinds[0])
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """Maps float32 images (batch, C, H, W) in [0, 1] to logits (batch, classes): the logarithm of the mean."""
        answers = torch.stack([member(images).log_softmax(1) for member in self.members])
        return answers.logsumexp(0) - math.log(len(self.members))
