"""A model that others have made, as a tower's weights, from the command line to its vectors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import make_tokenizer
from small_models import LLAMA_CONFIG, llama_tensors, write_hf

import scalingnote_jax
from scalingnote_jax.cli import main
from scalingnote_jax.config.values import read_workdir_config

MODULES = ("Transformer", "Pooling", "Normalize")


def model(folder: Path, pooling: str = "lasttoken") -> Path:
    tensors = llama_tensors()
    tensors["embed_tokens.weight"] = np.random.default_rng(7).normal(size=(110, 32)).astype("f4")
    write_hf(folder, LLAMA_CONFIG | {"vocab_size": 110}, tensors)
    make_tokenizer(folder)
    special = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    listed = []
    for i, name in enumerate(MODULES):
        kind = f"sentence_transformers.models.{name}"
        path = f"{i}_{name}" if i else ""
        listed.append({"idx": i, "name": str(i), "path": path, "type": kind})
    (folder / "modules.json").write_text(json.dumps(listed))
    config = {"embedding_dimension": 32, "pooling_mode": pooling}
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps(config))
    settings = {"prompts": {"query": "about "}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')
    return folder


CONFIG = """
from scalingnote_jax.config import *


def get_config() -> Config:
    tower = TowerConfig(weights={weights!r})
    optim = OptimConfig(learning_rate=1e-12, weight_decay=0.0)
    return Config(
        name="others",
        data=DataConfig(source="beir", path={data!r}),
        teacher=TowersConfig(query=tower, doc=tower),
        train=TrainConfig(duration="1 steps", batch_size=8, optim=optim),
        distill=DistillConfig(duration=""),
        eval=EvalConfig(systems=("teacher",)),
    )
"""


@pytest.mark.slow
def test_the_vectors_are_the_models_own(
    tmp_path: Path, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model(tmp_path / "model")
    path = tmp_path / "others.py"
    data = str(tiny_config.parent / "beir")
    path.write_text(CONFIG.format(weights=str(folder), data=data))
    words = [str(path), f"--workdir={tmp_path / 'w'}"]
    assert main(["data", *words]) == 0
    said = capsys.readouterr().err
    assert "teacher.query: pooling 'last', text.prompt 'about {text}', text.max_tokens 12" in said
    assert main(["train", *words]) == 0  # the workdir is this config's still
    config = read_workdir_config(tmp_path / "w")
    query, doc = config.teacher.query, config.teacher.doc
    assert (query.pooling, query.text.prompt, query.text.buckets) == ("last", "about {text}", (12,))
    assert (doc.pooling, doc.text.prompt, doc.text.max_tokens) == ("last", "{text}", 12)

    texts = ["amber topic3", "basin cedar " * 10]
    ours = scalingnote_jax.load(tmp_path / "w")
    queries = ours.encode_queries(texts)
    documents = ours.encode_documents([("", f"about {text}") for text in texts])
    np.testing.assert_allclose(queries, documents, atol=1e-5)  # the prompt is all that differs
    st = pytest.importorskip("sentence_transformers", reason="the other side of the comparison")
    theirs = st.SentenceTransformer(str(folder)).encode_query(texts)
    np.testing.assert_allclose(queries, theirs, atol=1e-5)


def test_what_a_tower_has_not_leaves_no_workdir(
    tmp_path: Path, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model(tmp_path / "model", pooling="max")
    path = tmp_path / "others.py"
    data = str(tiny_config.parent / "beir")
    path.write_text(CONFIG.format(weights=str(folder), data=data))
    words = [str(path), f"--workdir={tmp_path / 'w'}"]
    assert main(["train", *words]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "1_Pooling/config.json: Pooling max; expected one of mean, cls, lasttoken" in said
    assert not (tmp_path / "w").exists()
