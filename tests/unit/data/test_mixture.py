"""Several collections as one: ids that never clash, prompts, batches mixed as the weights say."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pair_batches import pair_batches
from run_parts import first_stage

from scalingnote_jax.config import DataConfig, replace
from scalingnote_jax.config.forms.mixture_entry import check_mixture, members, prompt_of
from scalingnote_jax.config.load import load_config
from scalingnote_jax.data.batches import PairSampler
from scalingnote_jax.data.dataset import Collection, build_dataset
from scalingnote_jax.data.members import Members, Mixing
from scalingnote_jax.data.sources import open_source
from scalingnote_jax.data.sources.mixture import bare
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.errors import UserError
from scalingnote_jax.text.tokens import TokenTable
from scalingnote_jax.workflow.workdir import Workdir

SIZES = {"big": 60, "small": 20}  # queries, each with one document of its own


def write_beir(folder: Path, count: int) -> Path:
    """Query i is answered by document i; ids are the same in every collection."""
    (folder / "qrels").mkdir(parents=True)
    name = folder.name
    docs = [{"_id": f"{i}", "title": f"t{i}", "text": f"{name} answer {i}"} for i in range(count)]
    queries = [{"_id": f"{i}", "text": f"{name} question {i}"} for i in range(count)]
    for kind, records in (("corpus", docs), ("queries", queries)):
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    rows = "".join(f"{i}\t{i}\t1\n" for i in range(count))
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("mixture")
    return [str(write_beir(root / name, count)) for name, count in SIZES.items()]


@pytest.fixture(scope="module")
def cfg(folders: list[str]) -> DataConfig:
    return DataConfig(
        source="beir",
        mixture=(folders[0], f"little={folders[1]}"),
        query_prompts=("little=Question, in short: ",),
        doc_prompts=("little=Note = ", "big=B: "),
    )


@pytest.fixture(scope="module")
def built(cfg: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> Collection:
    folder = tmp_path_factory.mktemp("built") / "data"
    build_dataset(cfg, folder)
    return Collection.open(folder)


def test_collections_stand_one_after_the_other_with_names_before_ids(built: Collection) -> None:
    assert len(built.doc_ids) == len(built.query_ids) == 80
    assert built.doc_ids[0] == "big:0"
    assert built.doc_ids[60] == built.query_ids[60] == "little:0"
    assert built.qrels("train")["little:7"] == {"little:7": 1}
    assert built.documents[0].text == "B: big answer 0"
    assert built.documents[60].text == "Note = small answer 0"
    assert built.documents[60].title == "t0"
    assert built.queries[0].text == "big question 0"
    assert built.queries[60].text == "Question, in short: small question 0"


def test_word_matching_gets_texts_without_prompts(built: Collection, cfg: DataConfig) -> None:
    texts = [d.text for d in bare(cfg, built.documents)]
    assert texts[59:61] == ["big answer 59", "small answer 0"]
    assert next(bare(cfg, built.queries[60:])).text == "small question 0"


def test_a_text_from_outside_gets_the_prompt_of_its_collection(cfg: DataConfig) -> None:
    assert prompt_of(cfg, "query_prompts", "little") == "Question, in short: "
    assert prompt_of(cfg, "query_prompts", "big") == ""
    assert prompt_of(DataConfig(), "query_prompts", None) == ""
    same = replace(cfg, query_prompts=("little=Q: ", "big=Q: "))
    assert prompt_of(same, "query_prompts", None) == "Q: "  # whichever it is
    for given, says in (
        (None, "none, and --data.query_prompts differs between them; expected one of big, little"),
        ("huge", "'huge'; expected one of big, little"),
    ):
        with pytest.raises(UserError, match=says):
            prompt_of(cfg, "query_prompts", given)
    with pytest.raises(UserError, match="'big'; expected none without"):
        prompt_of(DataConfig(), "doc_prompts", "big")


def test_members_by_row(built: Collection, cfg: DataConfig) -> None:
    found = Members.of(cfg, built)
    assert found is not None
    assert found.names == ("big", "little")
    assert found.doc_starts.tolist() == [0, 60, 80]
    assert np.bincount(found.of_query).tolist() == [60, 20]
    assert Members.of(DataConfig(), built) is None


def test_kinds_and_names_of_entries() -> None:
    mixture = ("a=pairs:/x/a.jsonl", "ir_datasets:beir/scifact", "/y/c", "d=/z=1")
    found = members(DataConfig(source="beir", mixture=mixture))
    assert {name: (m.source, m.path) for name, m in found.items()} == {
        "a": ("pairs", "/x/a.jsonl"),
        "scifact": ("ir_datasets", "beir/scifact"),
        "c": ("beir", "/y/c"),
        "d": ("beir", "/z=1"),
    }
    assert not any(m.mixture for m in found.values())


def test_content_and_prompts_are_in_the_fingerprint(cfg: DataConfig, folders: list[str]) -> None:
    plain = DataConfig(source="beir", mixture=cfg.mixture)
    prints = {
        open_source(c).fingerprint()
        for c in (cfg, plain, DataConfig(source="beir", mixture=cfg.mixture[:1]))
    }
    assert len(prints) == 3


@pytest.mark.parametrize(
    ("data", "weights", "single", "message"),
    [
        ({"mixture": ("/x/a", "/y/a")}, (), False, "two collections with the name 'a'"),
        ({"mixture": ("/x/a b",)}, (), False, "--data.mixture: '/x/a b'; expected NAME=PATH"),
        ({"mixture": ("/x/a",)}, (1.0, 2.0), False, "--train.mixture_weights: (1.0, 2.0) for 1"),
        ({"mixture": ("/x/a",)}, (-1.0,), False, "--train.mixture_weights: (-1.0,)"),
        ({}, (1.0,), False, "--train.mixture_weights: (1.0,) for 0 collections"),
        ({}, (), True, "--train.single_collection_batches: true without a mixture"),
        (
            {"mixture": ("/x/a",), "query_prompts": ("b=x",)},
            (),
            False,
            "--data.query_prompts: 'b=x'",
        ),
        ({"doc_prompts": ("x",)}, (), False, "--data.doc_prompts: 'x'"),
    ],
)
def test_what_does_not_fit_is_refused(
    data: dict[str, Any], weights: tuple[float, ...], single: bool, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        check_mixture(DataConfig(source="beir", **data), weights, single)
    assert message in str(caught.value)


# --- batches --------------------------------------------------------------------------------------


def sampler(
    built: Collection, cfg: DataConfig, weights: tuple[float, ...], single: bool, **options: Any
) -> PairSampler:
    """Batches of 8; a text has as many tokens as its row says, modulo 5."""
    tokens = TokenTable.from_lists([[1] * (1 + i % 5) for i in range(80)])
    found = Members.of(cfg, built)
    assert found is not None
    options = {"negatives_per_query": 1, "seed": 0, "bucket_window": 3, "batch_size": 8} | options
    mixing = Mixing(found, weights, single)
    return pair_batches(built, (tokens, tokens), ((8,), (2, 8)), mixing=mixing, **options)


def epoch(pairs: PairSampler, number: int = 0) -> np.ndarray:
    """[steps, B] query rows."""
    first = number * pairs.steps_per_epoch
    return np.stack([pairs.rows(first + i)[0] for i in range(pairs.steps_per_epoch)])


@pytest.mark.parametrize("single", [False, True])
def test_an_epoch_has_as_many_of_each_as_the_weights_say(
    built: Collection, cfg: DataConfig, single: bool
) -> None:
    rows = epoch(sampler(built, cfg, (1.0, 1.0), single))
    assert rows.shape == (10, 8)
    of = Counter((rows >= 60).ravel().tolist())
    assert of == {False: 40, True: 40}
    little = Counter(rows[rows >= 60].tolist())
    assert len(little) == 20
    assert set(little.values()) == {2}, "all twice, none thrice"
    assert max(Counter(rows[rows < 60].tolist()).values()) == 1


def test_without_weights_every_query_comes_once(built: Collection, cfg: DataConfig) -> None:
    rows = epoch(sampler(built, cfg, (), False))
    assert sorted(rows.ravel().tolist()) == list(range(80))


def test_single_collection_batches_are_of_one_collection_and_well_mixed(
    built: Collection, cfg: DataConfig
) -> None:
    pairs = sampler(built, cfg, (3.0, 2.0), True)
    kinds = []
    for number in range(4):
        rows = epoch(pairs, number)
        kind = (rows >= 60).all(axis=1)
        assert (kind | (rows < 60).all(axis=1)).all()
        assert kind.sum() == 4
        kinds.append(kind.tolist())
    assert len({tuple(kind) for kind in kinds}) > 1, "in another order each epoch"


def test_other_epochs_have_others_of_a_collection_with_a_small_share(
    built: Collection, cfg: DataConfig
) -> None:
    pairs = sampler(built, cfg, (1.0, 3.0), False)
    big = [set(rows[rows < 60].tolist()) for rows in (epoch(pairs, i) for i in range(12))]
    assert all(len(found) == 20 for found in big)
    assert len(set().union(*big)) > 55


def test_negatives_are_of_the_querys_own_collection(built: Collection, cfg: DataConfig) -> None:
    pairs = sampler(built, cfg, (1.0, 1.0), False, negatives_per_query=19)
    for step in range(5):
        queries, docs = pairs.rows(step)
        assert ((docs >= 60) == (queries >= 60)[:, None]).all()
    with pytest.raises(UserError, match=r"--train\.negatives_per_query: 20; expected from 0 to 19"):
        sampler(built, cfg, (), False, negatives_per_query=20)


def test_a_mixed_batch_is_a_function_of_seed_and_step(built: Collection, cfg: DataConfig) -> None:
    for single in (False, True):
        whole = sampler(built, cfg, (2.0, 1.0), single)
        parts = [sampler(built, cfg, (2.0, 1.0), single, index=i, count=2) for i in range(2)]
        for step in (13, 2):  # any step first
            slices = [part.batch(step) for part in parts]
            for name, expected in whole.batch(step).items():
                np.testing.assert_array_equal(np.concatenate([s[name] for s in slices]), expected)


def test_too_few_for_a_batch_of_their_own_are_refused(built: Collection, cfg: DataConfig) -> None:
    with pytest.raises(UserError, match=r"little has 20 training queries.* at least 32"):
        sampler(built, cfg, (), True, batch_size=32)
    with pytest.raises(UserError, match="little has 20 training queries, and 0 of them"):
        sampler(built, cfg, (1000.0, 1.0), False)
    assert sampler(built, cfg, (1.0, 0.0), False).steps_per_epoch == 10, "0 leaves it out"


def test_stage_1_of_a_config_with_a_mixture(tiny_config: Path, tmp_path: Path) -> None:
    """From the words of the command to the batches that the towers get."""
    beir = tiny_config.parent / "beir"
    words = ["--train.mixture_weights=1,3", "--train.single_collection_batches=true"]
    words += [f"--data.mixture=one={beir},two={beir}", "--data.path="]
    config = load_config(tiny_config, words)
    work = Workdir(tmp_path / "work")
    build_dataset(config.data, work.data)
    stage = first_stage(config, Collection.open(work.data), work, make_mesh(config.mesh))
    rows = np.stack([stage.sampler.rows(step)[0] for step in range(8)])
    assert rows.shape == (8, 8), "70 queries in batches of 8"
    assert np.sort((rows >= 60).mean(axis=1)).tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
