"""Random distortions of whole batches of images, on their device: affine, and elastic as in Simard et al. 2003.

Where each output pixel takes its value from is a smooth field, and both kinds of field are matrix products of the same
form, ``B @ C @ B.T``. Elastic: C is 10x10 random numbers and B's columns are Gaussians along an axis of the image,
as if full-size noise had been blurred, at a fortieth of the cost. Affine: B's columns are 1 and the coordinate. So one
product makes the field of both, and one ``grid_sample`` reads it.

Lengths are in pixels of MNIST, which are 28ths of the longer side of an image, so that they mean the same at any size.
"""

import math
from dataclasses import asdict, dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mnist_lightning.errors import UserError

SIDE = 28  # pixels of MNIST
NOISE = 10  # random numbers along each axis of an elastic field
AFFINE = 6  # random numbers of an affine one
PIXEL = 2 / SIDE  # in grid_sample's coordinates, which go from -1 to 1 over a square image
MOST = {"rotation": 180, "scale": 1, "shear": 2, "shift": SIDE, "elastic": SIDE, "smoothness": SIDE}
LEAST = {"smoothness": 1}  # and 0 of all others; noise smoother than a pixel would fall between the Gaussians
MARGIN = 1.5  # pixels by which the noise reaches over the edges, so that these move like the middle


@dataclass(frozen=True)
class Distortion:
    """How far each image is distorted: elastic is a standard deviation, others are bounds in both directions.

    Attributes:
        rotation, scale, shear, shift, elastic: As :class:`~mnist_lightning.data.datamodule.MNISTDataModule`.
        smoothness: The standard deviation of an elastic field's Gaussians, in pixels. Simard et al.'s sigma = 4 with
            alpha = 34 is a smoothness of 4 with elastic 1.4.

    Raises:
        UserError: A strength that is negative, or beyond any use.
    """

    rotation: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    elastic: float = 0.0
    smoothness: float = 4.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least, most = LEAST.get(name, 0), MOST[name]
            if not least <= value <= most:  # nan is not
                raise UserError(f"expected {name} to be from {least} to {most}, got {value}; change --data.{name}")

    @property
    def is_identity(self) -> bool:
        """Whether images stay as they are."""
        return not any((self.rotation, self.scale, self.shear, self.shift, self.elastic))

    def draw(self, count: int, generator: Generator) -> Tensor:
        """Draws the random numbers for a batch: float32 (count, 206 or 6), on the CPU, to be every device's."""
        affine = torch.rand(count, AFFINE, generator=generator) * 2 - 1
        elastic = torch.randn(count, 2 * NOISE**2 if self.elastic else 0, generator=generator)
        return torch.cat([affine, elastic], 1)

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Distorts float images (N, C, H, W), each by its row of what :meth:`draw` drew. What moves in is black."""
        exact = torch.promote_types(images.dtype, torch.float32)  # bfloat16 knows places to a twentieth of a pixel
        high, wide = images.shape[-2:]
        down, across = (_basis(side, max(high, wide), self.smoothness, exact, images.device) for side in (high, wide))
        coefficients = self._coefficients(drawn.to(images.device, exact, non_blocking=True), high / wide)
        field = down @ coefficients @ across.T
        return F.grid_sample(images.to(exact), field.permute(0, 2, 3, 1), align_corners=False).to(images.dtype)

    def _coefficients(self, drawn: Tensor, tall: float) -> Tensor:
        """The matrices C, (N, 2, 12, 12): where x, and y, come from, as coefficients of B's columns down and across."""
        turn, wide, high, slant, right, down = drawn[:, :AFFINE].T
        angle = turn * math.radians(self.rotation)
        wide, high = (torch.exp(ratio * math.log1p(self.scale)) for ratio in (wide, high))
        one, at = NOISE, NOISE + 1  # the columns of B that hold 1 and the coordinate
        c = drawn.new_zeros(len(drawn), 2, NOISE + 2, NOISE + 2)
        c[:, 0, one, at] = wide * angle.cos()
        c[:, 0, at, one] = (slant * self.shear - wide * angle.sin()) * tall
        c[:, 1, one, at] = high * angle.sin() / tall
        c[:, 1, at, one] = high * angle.cos()
        c[:, :, one, one] = torch.stack([right, down], 1) * self.shift * PIXEL
        if self.elastic:
            c[:, :, :NOISE, :NOISE] = drawn[:, AFFINE:].view(-1, 2, NOISE, NOISE) * self.elastic * PIXEL
        c[:, 0, :at, :at] *= max(tall, 1)  # the shorter side has fewer of these pixels
        c[:, 1, :at, :at] /= min(tall, 1)
        return c


@cache
def _basis(side: int, longer: int, smoothness: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """B, (side, 12): 10 Gaussians along an axis, with squares that sum to 1 at each pixel; 1; the coordinate."""
    coordinate = (2 * torch.arange(side) + 1) / side - 1
    pixels = torch.arange(side) * (SIDE / longer)
    centres = torch.linspace(-MARGIN, (side - 1) * SIDE / longer + MARGIN, NOISE)
    gaussians = torch.exp(-(((pixels[:, None] - centres) / smoothness) ** 2) / 2)
    columns = gaussians / gaussians.norm(dim=1, keepdim=True), torch.ones(side, 1), coordinate[:, None]
    return torch.cat(columns, 1).to(device, dtype)
