"""Every parser of files that come from outside: good input for it, and how it is called.

How they are damaged is in `fuzz_runs.py`. Imports are inside: each target runs in a process of its
own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_runs import Target


def _rehash(folder: Path, name: str) -> None:
    """Size and hash of a damaged file, in the manifest that lists it."""
    import hashlib

    if Path(name).name == "manifest.json":
        return
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    content = (folder / name).read_bytes()
    waiting: list[Any] = [manifest]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if value.get("file") == Path(name).name:
                entry: Any = value
            else:
                entry = value.get(name) if isinstance(value.get(name), dict) else None
            if entry is not None:
                entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    path.write_text(json.dumps(manifest))


# ---- artefacts of a workdir


def _marker(folder: Path) -> list[str]:
    from scalingnote_jax.workflow.workdir import mark_done

    (folder / "a.txt").write_text("x")
    mark_done(folder, "inputs", "output")
    return ["done.json", "files-0-of-1.json"]


def _read_marker(folder: Path) -> object:
    from scalingnote_jax.workflow.workdir import damage, read_done

    return read_done(folder), damage(folder)


def _array(folder: Path) -> list[str]:
    np.save(folder / "x.npy", np.arange(60, dtype=np.float32).reshape(12, 5))
    return ["x.npy"]


def _read_array(folder: Path) -> object:
    from scalingnote_jax.files.npy_files import read_npy

    return (
        read_npy(folder / "x.npy", "x", mapped=True).sum() + read_npy(folder / "x.npy", "x").sum()
    )


def _negatives(folder: Path) -> list[str]:
    from scalingnote_jax.data.negatives import Negatives
    from scalingnote_jax.retrieval.mine import _write

    rows = np.arange(4, dtype=np.int32)
    chosen = Negatives(rows, np.zeros((4, 3), np.int32), np.zeros((4, 3), np.float32))
    _write(folder / "n", chosen, {"queries": 4}, {"inputs": "x"})
    return ["n/manifest.json", "n/negatives.npz"]


def _read_negatives(folder: Path) -> object:
    from scalingnote_jax.retrieval.mine import open_negatives

    return open_negatives(folder / "n")


def _store(folder: Path, dtype: str = "float32") -> Any:
    from scalingnote_jax.vectors.store import StoreWriter

    rows = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    with StoreWriter(folder / "v", 8, {"contract": {}, "corpus": "c"}, 20, dtype) as writer:
        writer.add([f"d{i}" for i in range(40)], rows)
        return writer.close()


def _vectors(folder: Path) -> list[str]:
    _store(folder, "int8")
    return [
        f"v/{n}" for n in ("manifest.json", "ids.json", "vectors-00000.npy", "scales-00001.npy")
    ]


def _read_vectors(folder: Path) -> object:
    from scalingnote_jax.vectors.store import VectorStore

    return VectorStore.open(folder / "v").vectors().sum()


def _index(folder: Path) -> list[str]:
    from scalingnote_jax.config import IndexConfig
    from scalingnote_jax.retrieval.build_index import build_index

    build_index(_store(folder), IndexConfig(target_recall=0, exact_below=0), folder / "i")
    return ["i/manifest.json"]


def _scann(folder: Path) -> list[str]:
    _index(folder)
    return sorted(p.relative_to(folder).as_posix() for p in (folder / "i/scann-000").iterdir())


def _read_index(folder: Path) -> object:
    from scalingnote_jax.retrieval.scann.scann_index import ScannIndex
    from scalingnote_jax.vectors.store import VectorStore

    return ScannIndex.open(folder / "i", VectorStore.open(folder / "v").fingerprint)


def _beir(folder: Path) -> list[str]:
    (folder / "b/qrels").mkdir(parents=True)
    documents = [{"_id": f"d{i}", "title": "t", "text": f"text {i}"} for i in range(6)]
    queries = [{"_id": f"q{i}", "text": f"query {i}"} for i in range(3)]
    for name, records in (("corpus", documents), ("queries", queries)):
        (folder / f"b/{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    lines = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in range(3))]
    for split in ("train", "test"):
        (folder / f"b/qrels/{split}.tsv").write_text("\n".join(lines) + "\n")
    return ["b/corpus.jsonl", "b/queries.jsonl"]


def _qrels(folder: Path) -> list[str]:
    _beir(folder)
    return ["b/qrels/test.tsv"]


def _read_beir(folder: Path) -> object:
    from scalingnote_jax.config import DataConfig
    from scalingnote_jax.data.sources import open_source

    source = open_source(DataConfig(source="beir", path=str(folder / "b")))
    return list(source.documents()), list(source.queries()), source.qrels("test")


def _data(folder: Path) -> list[str]:
    from scalingnote_jax.config import DataConfig
    from scalingnote_jax.data.dataset import build_dataset

    _beir(folder)
    build_dataset(DataConfig(source="beir", path=str(folder / "b")), folder / "d")
    inner = "d/retrieval/corpus/1.0.0"
    return [
        *(f"d/{n}" for n in ("manifest.json", "ids.json", "doc_groups.npy")),
        *(f"{inner}/{n}" for n in ("dataset_info.json", "features.json")),
        f"{inner}/retrieval-train.array_record-00000-of-00001",
    ]


def _repair_data(folder: Path, name: str) -> None:
    _rehash(folder / "d", name.removeprefix("d/"))


def _read_data(folder: Path) -> object:
    from scalingnote_jax.data.collection import Collection

    found = Collection.open(folder / "d")
    return list(found.documents), list(found.queries), found.qrels("test")


class _Letters:
    """One token a letter."""

    fingerprint, pad_id, num_special = "letters", 0, 0

    def encode(self, texts: list[str], max_tokens: int) -> list[list[int]]:
        return [[ord(c) for c in text[:max_tokens]] or [0] for text in texts]

    def encode_whole(self, texts: list[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        return [([ord(c) for c in t], [(i, i + 1) for i in range(len(t))]) for t in texts]


def _tokens(folder: Path) -> list[str]:
    from scalingnote_jax.config import TextConfig
    from scalingnote_jax.text.tokens import tokenize

    letters: Any = _Letters()
    tokenize([("", "one"), ("", "two")], TextConfig(), letters, folder / "t", "key")
    (made,) = (folder / "t").iterdir()
    made.rename(folder / "table")
    return [f"table/{n}" for n in ("manifest.json", "offsets.npy", "ids.bin")]


def _read_tokens(folder: Path) -> object:
    from scalingnote_jax.text.tokens import _open

    table = _open(folder / "table", False)
    return [table.row(i) for i in range(len(table))]


def _checkpoint(folder: Path) -> list[str]:
    import jax.numpy as jnp

    from scalingnote_jax.train.checkpoint import TrainingCheckpoints
    from scalingnote_jax.train.state import TrainState

    x = jnp.arange(12.0).reshape(3, 4)
    state = TrainState(jnp.int32(4), {"a/x": x}, {}, {"m": {"a/x": x}})
    checkpoints = TrainingCheckpoints(folder / "c")
    checkpoints.save(state, 4, {"inputs": "x"})
    checkpoints.close()
    (folder / "c/4/files-0-of-1.json").unlink()  # as if killed just then: values speak
    return sorted(
        p.relative_to(folder).as_posix() for p in (folder / "c").rglob("*") if p.is_file()
    )


def _read_checkpoint(folder: Path) -> object:
    import jax
    import jax.numpy as jnp

    from scalingnote_jax.models.weights.restore import Checkpoints

    checkpoints = Checkpoints(folder / "c")
    try:
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        found = checkpoints.restore_params(4, {"a/x": jnp.zeros((3, 4))}, {"a/x": here})
        assert (np.asarray(found["a/x"]) == np.arange(12).reshape(3, 4)).all(), "other values"
        return found
    finally:
        checkpoints.close()


def _config(folder: Path) -> list[str]:
    from scalingnote_jax.config import Config, DecoderShape, TowerConfig, TowersConfig
    from scalingnote_jax.config.values import to_json

    tower = TowerConfig(shape=DecoderShape())
    config = Config("x", teacher=TowersConfig(query=tower, doc=tower))
    (folder / "config.json").write_text(json.dumps(to_json(config)))
    return ["config.json"]


def _read_config(folder: Path) -> object:
    from scalingnote_jax.config.values import field_values, read_workdir_config

    return field_values(read_workdir_config(folder))


def _lock(folder: Path) -> list[str]:
    (folder / "lock.json").write_text(
        json.dumps({"host": "h", "pid": 1, "start": "s", "verb": "x"})
    )
    return ["lock.json"]


def _read_lock(folder: Path) -> object:
    from scalingnote_jax.workflow.lock import _read

    return _read(folder / "lock.json")


def _records(folder: Path) -> list[str]:
    lines = [json.dumps({"step": i, "loss": 1.0, "secs": 2.0}) for i in range(5)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return ["metrics.jsonl"]


def _read_records(folder: Path) -> object:
    from scalingnote_jax.train.log.metrics_log import read_metrics

    return [record["step"] <= 3 for record in read_metrics(folder / "metrics.jsonl")]


# ---- weights, tokenizers and data of others


def _hf(folder: Path) -> list[str]:
    from small_models import LLAMA_CONFIG, llama_tensors, write_hf

    write_hf(folder / "m", LLAMA_CONFIG, llama_tensors())
    return ["m/config.json"]


def _safetensors(folder: Path) -> list[str]:
    _hf(folder)
    return ["m/model.safetensors"]


def _shards(folder: Path) -> list[str]:
    from small_models import LLAMA_CONFIG, llama_tensors, write_shards

    write_shards(folder / "m", LLAMA_CONFIG, llama_tensors())
    return ["m/model.safetensors.index.json"]


def _read_hf(folder: Path) -> object:
    from scalingnote_jax.models.weights.pretrained import open_pretrained

    return [np.asarray(w).sum() for w in open_pretrained(str(folder / "m")).weights.values()]


def _sentences(folder: Path) -> list[str]:
    _hf(folder)
    package = "sentence_transformers.models."
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": package + kind}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "m/modules.json").write_text(json.dumps(modules))
    (folder / "m/1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    (folder / "m/1_Pooling/config.json").write_text(json.dumps(pooling))
    said = {"prompts": {"query": "q: "}, "default_prompt_name": None}
    (folder / "m/config_sentence_transformers.json").write_text(json.dumps(said))
    return [
        "m/modules.json", "m/1_Pooling/config.json", "m/config_sentence_transformers.json",
    ]  # fmt: skip


def _contract(folder: Path) -> list[str]:
    _hf(folder)
    terms = {"pooling": "mean", "prompt": "{text}", "max_tokens": 9, "title_tokens": 0, "dim": 32}
    (folder / "m/contract.json").write_text(json.dumps({"towers": {"student query": terms}}))
    return ["m/contract.json"]


def _gguf(folder: Path) -> list[str]:
    from small_models import llama_tensors, write_gguf

    write_gguf(folder / "m.gguf", llama_tensors())
    whole = (folder / "m.gguf").read_bytes()
    (folder / "m.gguf").write_bytes(whole)
    return ["m.gguf"]


def _read_gguf(folder: Path) -> object:
    from scalingnote_jax.models.weights.pretrained import open_pretrained
    from scalingnote_jax.text import gguf_fields
    from scalingnote_jax.text.tokenizer import load_tokenizer

    gguf_fields._read_gguf.cache_clear()
    found = open_pretrained(str(folder / "m.gguf"))
    return load_tokenizer(str(folder / "m.gguf")), found.shape


def _tokenizer(folder: Path) -> list[str]:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from tokenizers.processors import TemplateProcessing

    names = ["[PAD]", "[UNK]", "[CLS]", *"abcdefgh", "ab", "cd"]
    vocabulary = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b"), ("c", "d")]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[PAD]", "[CLS]"])
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return ["tokenizer.json"]


def _read_tokenizer(folder: Path) -> object:
    from scalingnote_jax.text.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(str(folder / "tokenizer.json"))
    return tokenizer.encode(["ab cd"], 9) if tokenizer.num_special < 9 else tokenizer.vocab_size


def _parquet(folder: Path) -> list[str]:
    import pyarrow
    import pyarrow.parquet

    rows = {"query": [f"q{i}" for i in range(9)], "positive": [f"p{i}" for i in range(9)]}
    pyarrow.parquet.write_table(pyarrow.table(rows), folder / "train.parquet")
    return ["train.parquet"]


def _read_parquet(folder: Path) -> object:
    from scalingnote_jax.config import DataConfig
    from scalingnote_jax.data.sources import open_source

    source = open_source(DataConfig(source="pairs", path=str(folder / "train.parquet")))
    return list(source.documents()), list(source.queries())


def _trec(folder: Path) -> list[str]:
    lines = [f"q{i % 3} Q0 d{i} {i + 1} {9 - i}.5 tag" for i in range(6)]
    (folder / "run.trec").write_text("\n".join(lines) + "\n")
    return ["run.trec"]


def _read_trec(folder: Path) -> object:
    from scalingnote_jax.evaluate.run_files import read_run

    queries, documents = {f"q{i}" for i in range(3)}, {f"d{i}" for i in range(6)}
    return read_run(folder / "run.trec", queries, documents)


def _repair(inner: str) -> Any:
    """`_rehash` of a folder inside."""
    return lambda folder, name: _rehash(folder / inner, name.removeprefix(f"{inner}/"))


TARGETS = {
    "step marker and list of files": Target(_marker, _read_marker),
    ".npy": Target(_array, _read_array),
    "negatives": Target(_negatives, _read_negatives, _repair("n")),
    "vectors": Target(_vectors, _read_vectors, _repair("v")),
    "index manifest": Target(_index, _read_index),
    "ScaNN files": Target(_scann, _read_index, _repair("i")),
    "dataset": Target(_data, _read_data, _repair_data),
    "token table": Target(_tokens, _read_tokens, _repair("table")),
    "checkpoint": Target(_checkpoint, _read_checkpoint),
    "config of a workdir": Target(_config, _read_config),
    "lock": Target(_lock, _read_lock),
    "training records": Target(_records, _read_records),
    "Hugging Face config": Target(_hf, _read_hf),
    "safetensors": Target(_safetensors, _read_hf),
    "safetensors index": Target(_shards, _read_hf),
    "sentence-transformers": Target(_sentences, _read_hf),
    "export contract": Target(_contract, _read_hf),
    "GGUF": Target(_gguf, _read_gguf),
    "tokenizer.json": Target(_tokenizer, _read_tokenizer),
    "Parquet": Target(_parquet, _read_parquet),
    "TREC run": Target(_trec, _read_trec),
    "qrels": Target(_qrels, _read_beir),
    "JSONL": Target(_beir, _read_beir),
}
