"""Takes out of digits what varies with the hand that wrote them: their slant, and how wide they are.

Nets that see digits normalized in different ways make different mistakes, which is what makes an ensemble of them good
(Meier et al. 2011). Both changes follow from the second moments of the ink, so that one affine transform does both.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnist_lightning.data.augment import PIXEL

STRETCH = 2.0  # the most; a 1 is a stroke, and as wide as a 0 it would be a blot


class Deslant(nn.Module):
    """Stands digits upright and makes them equally wide; their place and their height stay.

    Args:
        deslant: Whether to shear each image so that its ink leans to neither side.
        width: Standard deviation of the ink across, in 28ths of the image, that each is stretched or shrunk to, by a
            factor of 2 at the most; 0 leaves it as it is. MNIST's digits have 2 to 6.
    """

    def __init__(self, deslant: bool, width: float) -> None:
        super().__init__()
        self.deslant, self.width, self.stretch = deslant, width * PIXEL, STRETCH  # TorchScript sees no globals

    def forward(self, images: Tensor) -> Tensor:
        """Maps float images (batch, C, H, W) to such images."""
        exact = images if images.dtype == torch.float64 else images.float()  # bfloat16 is too coarse for places
        ink = exact.mean(1)
        # where pixels are in grid_sample's coordinates
        across = (2 * torch.arange(ink.shape[2], dtype=ink.dtype, device=ink.device) + 1) / ink.shape[2] - 1
        down = (2 * torch.arange(ink.shape[1], dtype=ink.dtype, device=ink.device) + 1) / ink.shape[1] - 1
        columns, rows = ink.sum(1), ink.sum(2)
        mass = rows.sum(1).clamp_min(1e-6)  # a blank image stays blank
        x, y = (columns * across).sum(1) / mass, (rows * down).sum(1) / mass
        xx = (columns * across.square()).sum(1) / mass - x * x
        yy = (rows * down.square()).sum(1) / mass - y * y
        xy = ((ink * across).sum(2) * down).sum(1) / mass - x * y
        slant, stretch = torch.zeros_like(x), torch.ones_like(x)
        if self.deslant:
            slant = xy / yy.clamp_min(1e-6)
        if self.width:
            deviation = (xx - slant * xy).clamp_min(0).sqrt()
            stretch = (deviation / self.width).clamp(1 / self.stretch, self.stretch)
        # the output pixel at (u, v) takes its value from (x + stretch * (u - x) + slant * (v - y), v)
        u = (x - stretch * x - slant * y)[:, None, None] + stretch[:, None, None] * across
        v = down[:, None].expand_as(ink)
        grid = torch.stack([u + slant[:, None, None] * down[:, None], v], 3)
        return F.grid_sample(exact, grid, align_corners=False).to(images.dtype)
