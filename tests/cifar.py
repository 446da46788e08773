"""CIFAR-10's archive in its real format, with images made here and of any number.

torchvision knows the checksums of the real archive only. `prelude` is code that tells it those of
this one and is run before the command line, in the same process.
"""

from __future__ import annotations

import hashlib
import pickle
import tarfile
from pathlib import Path

import numpy as np

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARCHIVE = "cifar-10-python.tar.gz"
FOLDER = "cifar-10-batches-py"


def class_images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of ten classes: a class decides where texture lies and how strong it is, not alone.

    Returns
    -------
    tuple
        uint8 of shape (n, 3, 32, 32) and int labels, in no order.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, n)
    row, col = np.mgrid[0:32, 0:32] / 32.0
    angle = 2 * np.pi * np.arange(10) / 10
    centres = 0.5 + 0.25 * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    images = np.empty((n, 3, 32, 32), np.uint8)
    for index, label in enumerate(labels):
        r, c = centres[label] + rng.normal(0, 0.08, 2)
        place = np.exp(-((row - r) ** 2 + (col - c) ** 2) / 0.03)
        texture = rng.normal(0, 1, (3, 32, 32)) * (12 + 40 * place)
        shade = 128 + 30 * rng.normal() + 25 * (row - 0.5) * rng.normal()
        images[index] = np.clip(shade + texture, 0, 255).astype(np.uint8)
    return images, labels


def make_cifar(root: Path, n_test: int, seed: int = 0, n_train: int = 10) -> str:
    """Write the archive into `root` and return the prelude."""
    root.mkdir(parents=True, exist_ok=True)
    folder = root / FOLDER
    folder.mkdir()
    md5: dict[str, str] = {}
    batches = {"test_batch": n_test, **{f"data_batch_{k}": n_train for k in range(1, 6)}}
    for number, (name, n) in enumerate(batches.items()):
        images, labels = class_images(n, seed + number)
        entry = {
            "batch_label": name,
            "data": images.reshape(n, 3072),
            "labels": labels.tolist(),
            "filenames": [f"{name}_{index}.png" for index in range(n)],
        }
        (folder / name).write_bytes(pickle.dumps(entry, protocol=2))
    meta = {"num_cases_per_batch": n_train, "label_names": list(NAMES), "num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    with tarfile.open(root / ARCHIVE, "w:gz", compresslevel=1) as archive:
        archive.add(folder, FOLDER)
    for path in [*folder.iterdir(), root / ARCHIVE]:
        md5[path.name] = hashlib.md5(path.read_bytes()).hexdigest()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    return (
        "from torchvision.datasets import CIFAR10\n"
        f"md5 = {md5!r}\n"
        "CIFAR10.url = 'http://127.0.0.1:9/cifar-10-python.tar.gz'\n"
        "CIFAR10.tgz_md5 = md5[CIFAR10.filename]\n"
        "CIFAR10.train_list = [[name, md5[name]] for name, _ in CIFAR10.train_list]\n"
        "CIFAR10.test_list = [[name, md5[name]] for name, _ in CIFAR10.test_list]\n"
        "CIFAR10.meta = {**CIFAR10.meta, 'md5': md5['batches.meta']}\n"
    )
