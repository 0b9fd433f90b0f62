"""Train a small CNN on scikit-learn's digits and export it: digits.onnx and held_out.npz.

usage: python train.py          (needs torch and scikit-learn; takes about a minute)

The network has what real ones have: convolutions with batch norm, a residual block, a depthwise
convolution, pooling and a classifier. A quarter of the images is never trained on; the example
measures accuracy on it.
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

HERE = Path(__file__).parent
EPOCHS = 40


class Residual(nn.Module):
    """Two 3x3 convolutions around which the input is added back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return relu(x + body(x))."""
        return torch.relu(x + self.body(x))


def network() -> nn.Module:
    """Return the untrained classifier of [N, 1, 8, 8] images into ten digits."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        Residual(32),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False), nn.BatchNorm2d(32), nn.Hardswish(),
        nn.Conv2d(32, 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        Residual(64),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def main() -> None:
    """Train, print the held-out accuracy, and write the two files."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    split = train_test_split(images, labels, test_size=0.25, random_state=0, stratify=labels)
    train_x, test_x, train_y, test_y = split
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    x, y = torch.from_numpy(train_x), torch.from_numpy(train_y)
    for _ in range(EPOCHS):
        model.train()
        for batch in torch.randperm(len(x)).split(64):
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        accuracy = (model(torch.from_numpy(test_x)).argmax(1).numpy() == test_y).mean()
    print(f"held-out accuracy {accuracy:.4f} on {len(test_y)} images")
    torch.onnx.export(
        model, (torch.from_numpy(test_x[:2]),), str(HERE / "digits.onnx"), dynamo=True,
        input_names=["image"], output_names=["scores"], external_data=False, verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},), opset_version=20,
    )  # fmt: skip
    np.savez_compressed(HERE / "held_out.npz", images=test_x, labels=test_y)


if __name__ == "__main__":
    main()
