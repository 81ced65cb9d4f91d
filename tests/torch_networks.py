"""The networks once more, in plain PyTorch, under the names that published checkpoints have.

Written from the descriptions in the papers (He et al., 2015; SCAN; MoCo), to be the other side of
the tests of import and export. Nothing here comes from `scan_tf`.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def convolution(before: int, after: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1-3x3-1x1 where `bottleneck`, beside a shortcut."""

    def __init__(self, before: int, filters: int, stride: int, bottleneck: bool, shortcut: str):
        super().__init__()
        after = filters * (4 if bottleneck else 1)
        if bottleneck:
            layers = [(filters, 1, 1), (filters, 3, stride), (after, 1, 1)]
        else:
            layers = [(filters, 3, stride), (filters, 3, 1)]
        self.count, self.shortcut_name = len(layers), shortcut
        channels = before
        for i, (size, kernel, step) in enumerate(layers, 1):
            setattr(self, f"conv{i}", convolution(channels, size, kernel, step))
            setattr(self, f"bn{i}", nn.BatchNorm2d(size))
            channels = size
        projection = nn.Sequential()
        if stride != 1 or before != after:
            projection = nn.Sequential(convolution(before, after, 1, stride), nn.BatchNorm2d(after))
        setattr(self, shortcut, projection)

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.count:
                y = functional.relu(y)
        return functional.relu(y + getattr(self, self.shortcut_name)(x))


class ResNet(nn.Module):
    """`stem` cifar, stl or imagenet; `fc` is what comes after the pooling."""

    def __init__(self, blocks, *, stem="cifar", width=4, bottleneck=False, fc=None):
        super().__init__()
        large = stem == "imagenet"
        self.conv1 = convolution(3, width, 7, 2) if large else convolution(3, width, 3, 1)
        self.bn1 = nn.BatchNorm2d(width)
        pools = {"stl": nn.MaxPool2d(2, 2, 1), "imagenet": nn.MaxPool2d(3, 2, 1)}
        self.maxpool = pools.get(stem, nn.Identity())
        before = width
        for stage, count in enumerate(blocks):
            layers = []
            for i in range(count):
                stride = 2 if stage and not i else 1
                shortcut = "downsample" if large else "shortcut"
                layers.append(Block(before, width * 2**stage, stride, bottleneck, shortcut))
                before = width * 2**stage * (4 if bottleneck else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.features = before
        self.fc = fc or nn.Identity()

    def forward(self, x):
        x = self.maxpool(functional.relu(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


def projector(features: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, dim))


class Contrastive(nn.Module):
    """What SCAN's authors publish after a pretext."""

    def __init__(self, backbone: ResNet, dim: int):
        super().__init__()
        self.backbone = backbone
        self.contrastive_head = projector(backbone.features, dim)

    def forward(self, x):
        return functional.normalize(self.contrastive_head(self.backbone(x)), dim=1)


class Clustering(nn.Module):
    """What SCAN's authors publish after SCAN and after self-labelling."""

    def __init__(self, backbone: ResNet, clusters: int, heads: int = 1):
        super().__init__()
        self.backbone = backbone
        self.cluster_head = nn.ModuleList(
            nn.Linear(backbone.features, clusters) for _ in range(heads)
        )

    def forward(self, x):
        features = self.backbone(x)
        return [head(features) for head in self.cluster_head]


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in evaluation mode, its BatchNorms with statistics as after a training."""
    random = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            size = module.num_features
            module.weight.data = 0.5 + torch.rand(size, generator=random)
            module.bias.data = 0.2 * torch.randn(size, generator=random)
            module.running_mean = 0.2 * torch.randn(size, generator=random)
            module.running_var = 0.5 + torch.rand(size, generator=random)
            module.num_batches_tracked += 17
        elif isinstance(module, nn.Conv2d | nn.Linear):
            spread = module.weight[0].numel() ** -0.5
            module.weight.data = 1.5 * spread * torch.randn(module.weight.shape, generator=random)
            if module.bias is not None:
                module.bias.data = 0.1 * torch.randn(module.bias.shape, generator=random)
    return model.eval()
