"""Eight fake CPU devices for every test, and the small things that many tests start from: a corpus,
a tokenizer, a config.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# The second flag: see CPU_IN_ORDER in devices/mesh.py, which cannot be imported yet. The third:
# half of the time to compile a program is LLVM's optimisation, and most run for milliseconds here.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    " --xla_cpu_enable_concurrency_optimized_scheduler=false"
    " --xla_backend_optimization_level=0"
)
# Shared with the processes that tests start: most of a tiny model's time is compiling it.
COMPILED = Path(tempfile.gettempdir()) / "scalingnote_jax-tests-compiled"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax  # noqa: E402  (after its environment)
import pytest  # noqa: E402

jax.config.update("jax_default_matmul_precision", "highest")

# fmt: off
WORDS = [
    "amber", "basin", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet",
    "jade", "kelp", "lagoon", "maple", "nectar", "otter", "pebble", "quartz", "raven",
    "sable", "tulip", "umber", "violet", "willow", "yarrow", "zephyr", "anchor", "beacon",
    "canyon", "dune", "estuary", "falcon", "glacier", "harbor", "island", "jasper", "knoll",
    "larch", "meadow", "nimbus", "opal",
]
# fmt: on


def shared_folder() -> Path | None:
    """Reference outputs and real collections beside the repository, if they are there."""
    default = Path(__file__).resolve().parents[1].parent / "shared"
    folder = Path(os.environ.get("SCALINGNOTE_SHARED", default))
    return folder if folder.is_dir() else None


def make_beir(folder: Path, topics: int = 20, seed: int = 0) -> Path:
    """A collection that can be learned: each topic has two documents and three queries that share
    its words.

    Per topic one query is for training only, one for testing, and one of every four topics gives a
    dev query; one training query has both documents as positives, with grades 2 and 1.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    documents, queries = [], []
    qrels: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for t in range(topics):
        own = [WORDS[(2 * t) % len(WORDS)], WORDS[(2 * t + 1) % len(WORDS)], f"topic{t}"]
        for d in range(2):
            filler = list(rng.choice(WORDS, 6 + 5 * d))
            documents.append(
                {"_id": f"d{t}-{d}", "title": f"about {own[0]}", "text": " ".join(own + filler)}
            )
        for i, split in enumerate(("train", "test", "dev" if t % 4 == 0 else "train")):
            qid = f"q{t}-{i}"
            queries.append({"_id": qid, "text": " ".join([own[0], own[2], str(rng.choice(WORDS))])})
            qrels[split].append(f"{qid}\td{t}-0\t2")
            if i == 0:
                qrels[split].append(f"{qid}\td{t}-1\t1")
    for name, records in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (folder / "qrels").mkdir(exist_ok=True)
    for split, lines in qrels.items():
        (folder / "qrels" / f"{split}.tsv").write_text(
            "\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n"
        )
    return folder


def make_tokenizer(folder: Path) -> Path:
    """A word-level tokenizer over the words that `make_beir` uses, as a tokenizer.json."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = ["[PAD]", "[UNK]", "about", *WORDS, *(f"topic{t}" for t in range(60))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


CONFIG_SOURCE = """
from scalingnote_jax.config import *


def get_config() -> Config:
    shape = DecoderShape(
        vocab_size=128, hidden_size=32, intermediate_size=64, num_layers=2,
        num_heads=4, num_kv_heads=2, head_dim=8,
    )
    tower = TowerConfig(
        weights="random",
        shape=shape,
        tokenizer={tokenizer!r},
        projection=16,
        text=TextConfig(max_tokens=16, buckets=(8, 16)),
    )
    small = replace(tower, shape=replace(shape, num_layers=1))
    optim = OptimConfig(learning_rate=3e-3)
    return Config(
        name="tiny",
        data=DataConfig(source="beir", path={data!r}),
        teacher=TowersConfig(query=tower, doc=tower),
        train=TrainConfig(
            duration="20 steps", batch_size=8, negatives_per_query=1, temperature=0.2,
            optim=optim, log_every="5 steps",
        ),
        distill=DistillConfig(
            student=small, queries=("train", "sentences"), duration="20 steps", batch_size=8,
            optim=optim, log_every="5 steps",
        ),
        encode=EncodeConfig(batch_size=16, shard_rows=24),
        eval=EvalConfig(
            metrics=("Recall@5", "Recall@10", "nDCG@10", "MRR@10"), depth=20, latency_queries=3
        ),
    )
"""


def make_config(folder: Path) -> Path:
    """A config file of random towers small enough to train in seconds, with its collection and
    tokenizer beside it.
    """
    data, tokenizer = make_beir(folder / "beir"), make_tokenizer(folder / "tokenizer")
    path = folder / "tiny.py"
    path.write_text(CONFIG_SOURCE.format(data=str(data), tokenizer=str(tokenizer)))
    return path


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` fills once in a session, however many processes run the tests: the first
    that needs it makes it, the others wait.
    """
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # where the folders of all workers lie
    folder = root / name
    with (root / f"{name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if lock.tell() == 0:  # an empty file: nobody has made it
            folder.mkdir(exist_ok=True)
            make(folder)
            lock.write("made")
    return folder


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of a tiny config file; a test may put other configs beside it, under other names.

    A test that trains with it as it is finds the programs of `finished` compiled. Fewer steps would
    be slower: the schedule's length is a constant of the program, so it would be another one.
    """
    return once(tmp_path_factory, "tiny", make_config) / "tiny.py"


@pytest.fixture(scope="session")
def finished(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir on which `scalingnote run` has ended; only to be read."""
    from scalingnote_jax.cli import main

    def run(folder: Path) -> None:
        assert main(["run", str(tiny_config), f"--workdir={folder / 'work'}"]) == 0

    return once(tmp_path_factory, "finished", run) / "work"


@pytest.fixture
def beir_folder(tmp_path: Path) -> Path:
    """A collection that a test may damage."""
    return make_beir(tmp_path / "beir")
