"""The networks, and their weights under names: ours, pretrained ones, PyTorch's."""
