"""Real input for the demo, from what installed packages carry: nothing is downloaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
EASY_VQA_IMAGES = 10


def write_demo_data(folder: Path) -> tuple[Path, Path]:
    """Write one LLaVA-style JSONL and the images it names; returns both."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    photographs = _read(HERE / "photographs.jsonl")
    for name in {record["image"] for record in photographs}:
        _write_photograph(images / name)
    records = [*photographs, *_easy_vqa(images), *_read(HERE / "text.jsonl")]
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path, images


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write_photograph(path: Path) -> None:
    from PIL import Image
    from skimage import data
    from sklearn.datasets import load_sample_image

    if path.exists():
        return
    if path.name in ("china.jpg", "flower.jpg"):
        pixels = load_sample_image(path.name)
    else:
        pixels = getattr(data, path.stem)()
    if pixels.dtype == bool:
        pixels = pixels.astype("uint8") * 255
    Image.fromarray(pixels).save(path)


def _easy_vqa(folder: Path) -> list[dict[str, Any]]:
    """The first images of easy-vqa with all of their questions."""
    import easy_vqa

    files = easy_vqa.get_train_image_paths()
    for image in range(EASY_VQA_IMAGES):
        shutil.copyfile(files[image], folder / f"shapes_{image}.png")
    return [
        {
            "id": f"shapes_{image}_{number}",
            "image": f"shapes_{image}.png",
            "conversations": [
                {"from": "human", "value": f"<image>\n{question}"},
                {"from": "gpt", "value": answer},
            ],
        }
        for number, (question, answer, image) in enumerate(
            zip(*easy_vqa.get_train_questions(), strict=True)
        )
        if image < EASY_VQA_IMAGES
    ]
