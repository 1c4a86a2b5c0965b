"""The guide's script: the same experiment in plain PyTorch, as one writes it by hand. The benchmark's measure."""

import argparse
import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class Digits(Dataset[tuple[Tensor, Tensor]]):
    """Float images (1, 28, 28) in [0, 1] and their labels, one at a time."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]


def load(folder: Path, part: str) -> Digits:
    """Reads the images and labels of ``train`` or ``t10k``, skipping their headers of 16 and 8 bytes."""
    images = np.frombuffer(read(folder / f"{part}-images-idx3-ubyte"), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    labels = np.frombuffer(read(folder / f"{part}-labels-idx1-ubyte"), np.uint8, offset=8)
    return Digits(torch.from_numpy(images.astype(np.float32) / 255), torch.from_numpy(labels.astype(np.int64)))


def read(path: Path) -> bytes:
    """Reads a file, or the .gz that is there instead."""
    return path.read_bytes() if path.exists() else gzip.decompress(Path(f"{path}.gz").read_bytes())


def simple_net() -> nn.Sequential:
    """784 -> 128 -> 10."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def train_epoch(model: nn.Module, loader: DataLoader[tuple[Tensor, Tensor]], optimizer: torch.optim.Optimizer) -> float:
    """Trains for one epoch and returns the mean loss."""
    criterion = nn.CrossEntropyLoss()
    total = 0.0
    model.train()
    for images, labels in loader:
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(loader)


def evaluate(model: nn.Module, loader: DataLoader[tuple[Tensor, Tensor]]) -> float:
    """Returns the accuracy."""
    model.eval()
    correct = total = 0
    with torch.no_grad():
        for images, labels in loader:
            correct += int((model(images).argmax(1) == labels).sum())
            total += len(labels)
    return correct / total


def fetched() -> Path:
    """Fetches MNIST, as scripts/train.py does, and returns its folder."""
    from mnist_lightning.data import download  # here, as the rest needs PyTorch alone

    return download.fetch(download.DEFAULT_DATA_DIR)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="of the four IDX files; by default MNIST is fetched")
    parser.add_argument("epochs", nargs="?", type=int, default=20, help="passes through the training images (20)")
    args = parser.parse_args()
    try:
        folder = args.folder or fetched()
        train, test = load(folder, "train"), load(folder, "t10k")
    except (OSError, ValueError) as error:  # a UserError is a ValueError
        parser.error(f"cannot load the digits: {error}")
    print(f"{len(train):,} images to train on and {len(test):,} to test on, from {folder}", flush=True)
    torch.manual_seed(0)
    train_loader = DataLoader(train, batch_size=64, shuffle=True)
    test_loader = DataLoader(test, batch_size=1000)
    model = simple_net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(args.epochs):
        print(f"epoch {epoch + 1}/{args.epochs}", end=" ", flush=True)
        print(f"loss {train_epoch(model, train_loader, optimizer):.4f}", flush=True)
    print(f"test accuracy {evaluate(model, test_loader):.2%}")


if __name__ == "__main__":
    main()
