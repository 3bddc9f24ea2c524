"""Two small networks for images, in two or three dimensions: a classifier and a U-Net.

Group norm, not batch norm: batch statistics are of one site's few images, and their averages over sites are those of
no site. Strided convolutions, transposed convolutions and plain means alone, since the pooling and interpolation of
torch have no deterministic gradient on CUDA.

Source: Ronneberger et al. 2015, "U-Net", MICCAI; Wu and He 2018, "Group normalization", ECCV.
"""

from __future__ import annotations

from itertools import pairwise
from math import gcd

import torch
from torch import nn

__all__ = ["Classifier", "UNet"]

_GROUPS = 8


def _block(inputs: int, width: int, dimensions: int) -> nn.Sequential:
    """Two convolutions, each normalised over groups of channels."""
    convolution = (nn.Conv2d, nn.Conv3d)[dimensions - 2]
    layers: list[nn.Module] = []
    for channels in (inputs, width):
        layers += [convolution(channels, width, 3, padding=1, bias=False), _norm(width), nn.ReLU()]
    return nn.Sequential(*layers)


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(gcd(_GROUPS, width), width)


class Classifier(nn.Module):  # type: ignore[misc]
    """One number an image, float32 (n, 1): blocks, each half the size of the one before, and their mean over space.

    Args:
        channels: width of each block.
        dimensions: 2 or 3; inputs are (n, 1, rows, columns) or (n, 1, slices, rows, columns).
        dropout: share of the last channels that is left out while training.
    """

    def __init__(self, channels: tuple[int, ...], dimensions: int, dropout: float = 0.0) -> None:
        super().__init__()
        convolution = (nn.Conv2d, nn.Conv3d)[dimensions - 2]
        layers: list[nn.Module] = [_block(1, channels[0], dimensions)]
        for width, wider in pairwise(channels):
            layers += [convolution(width, width, 2, stride=2, bias=False), _block(width, wider, dimensions)]
        self.body = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels[-1], 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, or values in standard units."""
        return self.head(self.dropout(self.body(x).flatten(2).mean(dim=2)))


class UNet(nn.Module):  # type: ignore[misc]
    """One number a voxel, float32 of the input's shape. Sizes must be multiples of 2 ** (len(channels) - 1).

    Args:
        channels: width at each depth.
        dimensions: as `Classifier`.
    """

    def __init__(self, channels: tuple[int, ...], dimensions: int) -> None:
        super().__init__()
        convolution = (nn.Conv2d, nn.Conv3d)[dimensions - 2]
        transposed = (nn.ConvTranspose2d, nn.ConvTranspose3d)[dimensions - 2]
        self.first = _block(1, channels[0], dimensions)
        self.down, self.lower = nn.ModuleList(), nn.ModuleList()
        self.up, self.upper = nn.ModuleList(), nn.ModuleList()
        for width, wider in pairwise(channels):
            self.down.append(convolution(width, width, 2, stride=2))
            self.lower.append(_block(width, wider, dimensions))
            self.up.append(transposed(wider, width, 2, stride=2))
            self.upper.append(_block(2 * width, width, dimensions))
        self.head = convolution(channels[0], 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = self.first(x)
        kept = []
        for down, block in zip(self.down, self.lower, strict=True):
            kept.append(x)
            x = block(down(x))
        for up, block in zip(reversed(self.up), reversed(self.upper), strict=True):
            x = block(torch.cat([kept.pop(), up(x)], dim=1))
        return self.head(x)
