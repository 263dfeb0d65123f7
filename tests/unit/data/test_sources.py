"""Raw texts: BEIR folders with everything that can be wrong in them, and installed docstrings."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from scalingnote_jax.config import Config, DataConfig
from scalingnote_jax.config.validate import validate
from scalingnote_jax.data.sources import Document, Query, open_source
from scalingnote_jax.data.sources.docstrings import NotParsed, pairs_of, split_docstring
from scalingnote_jax.data.survey import survey
from scalingnote_jax.errors import UserError

CORPUS = [
    {"_id": "d1", "title": "Cats", "text": "A cat sleeps all day."},
    {"_id": "d2", "title": "Only a title", "text": ""},
    {"_id": "d3", "text": "No title: été 猫.", "metadata": {"year": 1990}},
]
QUERIES = [{"_id": "q1", "text": "sleepy animals"}, {"_id": "q2", "text": "not judged"}]
TRAIN = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\n"


def write_beir(folder: Path) -> Path:
    (folder / "qrels").mkdir(parents=True)
    for name, records in (("corpus", CORPUS), ("queries", QUERIES)):
        lines = "".join(json.dumps(r) + "\n" for r in records)
        (folder / f"{name}.jsonl").write_text(lines)
    (folder / "qrels/train.tsv").write_text(TRAIN)
    return folder


def beir(folder: Path, max_text_bytes: int = 200_000) -> DataConfig:
    return DataConfig(source="beir", path=str(folder), max_text_bytes=max_text_bytes)


def test_beir_is_read_as_it_is_written(tmp_path: Path) -> None:
    source = open_source(beir(write_beir(tmp_path)))
    documents = list(source.documents())
    assert documents[0] == Document("d1", "Cats", "A cat sleeps all day.")
    assert documents[1] == Document("d2", "Only a title", "")
    assert documents[2] == Document("d3", "", "No title: été 猫.")
    assert list(source.queries()) == [Query("q1", "sleepy animals"), Query("q2", "not judged")]
    assert source.qrels("train") == {"q1": {"d1": 2, "d2": 0}}
    assert source.qrels("test") == {}
    assert list(source.documents()) == documents, "a second pass gives the same"


def test_beir_gzip_bom_crlf_and_blank_lines(tmp_path: Path) -> None:
    folder = write_beir(tmp_path)
    plain = (folder / "corpus.jsonl").read_bytes()
    windows = b"\xef\xbb\xbf" + plain.replace(b"\n", b"\r\n") + b"\r\n"
    (folder / "corpus.jsonl").unlink()
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(windows))
    (folder / "qrels/train.tsv").write_bytes(TRAIN.replace("\n", "\r\n").encode())
    source = open_source(beir(folder))
    assert [d.id for d in source.documents()] == ["d1", "d2", "d3"]
    assert source.qrels("train") == {"q1": {"d1": 2, "d2": 0}}


def test_beir_splits_are_taken_by_name(tmp_path: Path) -> None:
    folder = write_beir(tmp_path)
    extra = TRAIN.replace("d1", "nobody-knows-this-document")
    (folder / "qrels/judged_test.tsv").write_text(extra)
    found = survey(open_source(beir(folder)), beir(folder))
    assert list(found.qrels) == ["train"]


def test_beir_fingerprint_follows_the_bytes(tmp_path: Path) -> None:
    folder = write_beir(tmp_path)
    before = open_source(beir(folder)).fingerprint()
    os.utime(folder / "corpus.jsonl", (1, 1))
    assert open_source(beir(folder)).fingerprint() == before, "time stamps do not count"
    (folder / "qrels/train.tsv").write_text(TRAIN.replace("\t2", "\t1"))
    assert open_source(beir(folder)).fingerprint() != before


def replace_line(name: str, number: int, line: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        lines = (folder / name).read_bytes().splitlines(keepends=True)
        lines[number - 1 : number] = [line + b"\n"]
        (folder / name).write_bytes(b"".join(lines))

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def broken_gzip(folder: Path) -> None:
    more = "".join(json.dumps({"_id": f"x{i}", "text": f"{i**9}"}) + "\n" for i in range(999))
    packed = gzip.compress((folder / "corpus.jsonl").read_bytes() + more.encode())
    (folder / "corpus.jsonl").unlink()
    (folder / "corpus.jsonl.gz").write_bytes(packed[: len(packed) // 2])


def not_gzip(folder: Path) -> None:
    (folder / "corpus.jsonl").rename(folder / "corpus.jsonl.gz")


BAD_INPUT = {
    "missing corpus": (remove("corpus.jsonl"), "corpus.jsonl: no such file"),
    "missing queries": (remove("queries.jsonl"), "queries.jsonl: no such file"),
    "missing qrels": (remove("qrels/train.tsv"), "qrels: no train.tsv, dev.tsv or test.tsv"),
    "broken JSON": (
        replace_line("corpus.jsonl", 2, b'{"_id": "d2", "text": '),
        "corpus.jsonl:2: not JSON (Expecting value",
    ),
    "JSON nested without end": (
        replace_line("corpus.jsonl", 2, b"[" * 200_000),
        "corpus.jsonl:2: not JSON",
    ),
    "not an object": (
        replace_line("queries.jsonl", 1, b"[1]"),
        "queries.jsonl:1: JSON, but a list",
    ),
    "missing text": (
        replace_line("corpus.jsonl", 3, b'{"_id": "d3", "title": "x"}'),
        "corpus.jsonl:3: no field 'text' (fields: '_id', 'title')",
    ),
    "missing id": (
        replace_line("queries.jsonl", 2, b'{"text": "x"}'),
        "queries.jsonl:2: no field '_id'",
    ),
    "text of another type": (
        replace_line("corpus.jsonl", 1, b'{"_id": "d1", "text": 1.5}'),
        "corpus.jsonl:1: the field 'text' is of type float",
    ),
    "id with a space": (
        replace_line("corpus.jsonl", 1, b'{"_id": "d 1", "text": "x"}'),
        "corpus.jsonl:1: the _id 'd 1'",
    ),
    "duplicate document": (
        replace_line("corpus.jsonl", 3, b'{"_id": "d1", "text": "x"}'),
        "corpus.jsonl:3: the _id 'd1' again, first seen on line 1",
    ),
    "duplicate query": (
        replace_line("queries.jsonl", 2, b'{"_id": "q1", "text": "x"}'),
        "queries.jsonl:2: the _id 'q1' again, first seen on line 1",
    ),
    "relevant in training, title and text empty": (
        replace_line("corpus.jsonl", 1, b'{"_id": "d1", "title": "", "text": " "}'),
        "train.tsv:2: document 'd1' is relevant, with an empty title and text",
    ),
    "empty query": (
        replace_line("queries.jsonl", 2, b'{"_id": "q2", "text": ""}'),
        "queries.jsonl:2: query 'q2' is empty",
    ),
    "a query of null": (
        replace_line("queries.jsonl", 2, b'{"_id": "q2", "text": null}'),
        "queries.jsonl:2: query 'q2' is empty",
    ),
    "an id that is no text": (
        replace_line("queries.jsonl", 2, b'{"_id": 2.0, "text": "x"}'),
        "queries.jsonl:2: the _id is of type float; expected a text or an integer",
    ),
    "empty corpus": (
        lambda folder: (folder / "corpus.jsonl").write_text("\n"),
        "the corpus is empty",
    ),
    "no queries": (
        lambda folder: (folder / "queries.jsonl").write_text(""),
        "the query set is empty",
    ),
    "a text of 1 MB": (
        replace_line("corpus.jsonl", 2, b'{"_id": "d2", "text": "%s"}' % (b"x" * 1_000_000)),
        "corpus.jsonl:2: a text of 1,000,000 bytes; expected at most 200,000",
    ),
    "lone surrogate": (
        replace_line("corpus.jsonl", 2, rb'{"_id": "d2", "text": "ab\ud800c"}'),
        "corpus.jsonl:2: a lone surrogate \\ud800 in 'text', character 3",
    ),
    "lone surrogate in an id": (
        replace_line("queries.jsonl", 1, rb'{"_id": "q\udfff", "text": "x"}'),
        "queries.jsonl:1: a lone surrogate \\udfff in '_id'",
    ),
    "not UTF-8": (
        replace_line("corpus.jsonl", 2, '{"_id": "d2", "text": "été"}'.encode("latin1")),
        "corpus.jsonl:2: byte 0xe9 at column 24 is not UTF-8",
    ),
    "cut gzip": (broken_gzip, "the file cannot be read on from here (Compressed file ended"),
    "gzip in name only": (not_gzip, "corpus.jsonl.gz:1: the file cannot be read on from here"),
    "a header of other names": (
        replace_line("qrels/train.tsv", 1, b"question\tanswer\tscore"),
        "train.tsv:1: 3 columns: 'question\\tanswer\\tscore'; expected the columns qid pid",
    ),
    "two columns": (replace_line("qrels/train.tsv", 2, b"q1\td1"), "train.tsv:2: 2 columns"),
    "score is not an integer": (
        replace_line("qrels/train.tsv", 3, b"q1\td2\t0.5"),
        "train.tsv:3: the score '0.5'; expected a whole number",
    ),
    "two grades": (
        replace_line("qrels/train.tsv", 3, b"q1\td1\t1"),
        "train.tsv:3: q1 d1 has grade 1, but 2 further up",
    ),
    "unknown document": (
        replace_line("qrels/train.tsv", 3, b"q1\td9\t1"),
        "train.tsv:3: unknown document 'd9'",
    ),
    "unknown query": (
        replace_line("qrels/train.tsv", 3, b"q9\td1\t1"),
        "train.tsv:3: unknown query 'q9'",
    ),
    "no positive": (
        replace_line("qrels/train.tsv", 2, b"q1\td1\t0"),
        "train.tsv:2: query 'q1' has no relevant document (grades [0, 0])",
    ),
    "no judgement at all": (
        lambda folder: (folder / "qrels/train.tsv").write_text(TRAIN.splitlines()[0]),
        "no judgements in any split",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_with_the_place(case: str, tmp_path: Path) -> None:
    change, message = BAD_INPUT[case]
    folder = write_beir(tmp_path / "data")
    change(folder)
    with pytest.raises(UserError) as caught:
        survey(open_source(beir(folder)), beir(folder))
    said = str(caught.value)
    assert message in said
    assert str(folder) in said
    assert "\n" not in said
    assert said.count("; ") >= 2, "given; expected; what to do next"
    said.encode()  # can be printed


def test_missing_folder_names_the_option(tmp_path: Path) -> None:
    for path in ("", str(tmp_path / "nowhere")):
        with pytest.raises(UserError, match=r"--data\.path: '.*' is not a folder"):
            open_source(DataConfig(source="beir", path=path))


# ---- docstrings


def test_docstring_is_cut_after_its_first_sentence() -> None:
    summary, body = split_docstring(  # type: ignore[misc]
        """Solve a linear system with :func:`~numpy.linalg.solve`, e.g. a ``small`` one.  It
        calls LAPACK.

        Parameters
        ----------
        a : array of shape (n, n), which must not be singular
        """
    )
    assert summary == "Solve a linear system with numpy.linalg.solve, e.g. a small one"
    assert body.startswith("It calls LAPACK.\n\nParameters\n----------\na : array")


@pytest.mark.parametrize(
    "docstring",
    [
        "Too short.\n\n" + "word " * 20,
        "The body is too short here.\n\nOnly four words follow.",
        "word " * 41 + "\n\n" + "word " * 20,
        "reshape(a, shape, order)\n\n" + "word " * 20,
        "size (int, *optional*): the size of it\n\n" + "word " * 20,
        "Parameters of the thing:\n\n" + "word " * 20,
        ">>> do this now\n\n" + "word " * 20,
        "这 是 一个 中文 摘要\n\n" + "word " * 20,
        "",
    ],
)
def test_docstrings_of_no_use_are_refused(docstring: str) -> None:
    assert split_docstring(docstring) is None


BODY = "It takes ten words or more to make a document of it: {}."


def doc(summary: str, body: str) -> str:
    return f'"""{summary}.\n\n    {BODY.format(body)}\n    """'


FAKE = doc("Never seen by anybody", "fake").replace('"""', "'''")
MODULE = f'''
{doc("Tools for the tests", "module")}
import nothing_is_imported
TEMPLATE = """
def fake():
    {FAKE}
"""
def public(a, b):
    {doc("Add the two numbers", "public")}
    def inner():
        {doc("Inner functions are hidden", "inner")}
def _private():
    {doc("Private functions are hidden", "private")}
class Thing:
    {doc("A thing with methods", "Thing")}
    @property
    def size(self):
        {doc("Size of the thing", "size")}
    async def wait(self):
        {doc("Wait for the thing", "wait")}
if True:
    def conditional():
        {doc("Defined under a condition", "conditional")}
'''


def test_pairs_of_a_module_are_named_and_in_order() -> None:
    pairs = list(pairs_of(MODULE.encode(), "pkg.mod"))
    assert [p.name for p in pairs] == [
        "pkg.mod",
        "pkg.mod:public",
        "pkg.mod:Thing",
        "pkg.mod:Thing.size",
        "pkg.mod:Thing.wait",
        "pkg.mod:conditional",
    ]
    assert pairs[1].summary == "Add the two numbers"
    assert pairs[1].body == BODY.format("public")


def test_generated_and_broken_files() -> None:
    assert list(pairs_of(b"# Autogenerated by a tool; DO NOT EDIT\n" + MODULE.encode(), "m")) == []
    with pytest.raises(NotParsed):
        list(pairs_of(MODULE.encode() + b"\ndef broken(:\n    " + doc("a b c", "x").encode(), "m"))


def install(site: Path, name: str, files: dict[str, str]) -> None:
    """A distribution as pip leaves it behind."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in files))


def functions(*docs: tuple[str, str, str]) -> str:
    return "".join(f"def {name}():\n    {doc(s, b)}\n" for name, s, b in docs)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    a = functions(
        ("one", "Summary of number one", "first"),
        ("copy", "Summary  of number ONE", "First"),  # the same but for case and spaces
        ("other", "Another summary of it", "first"),  # same body: same document
        ("again", "Summary of number one", "second"),  # same summary: same query
    )
    install(
        tmp_path,
        "Fake_Pkg",
        {
            "fakepkg/__init__.py": f"{doc('The fake package itself', 'package')}",
            "fakepkg/a.py": a,
            "fakepkg/tests/test_a.py": functions(("t", "Tests are left out", "tests")),
            "fakepkg/test_b.py": functions(("t", "Test files are left out", "test file")),
            "fakepkg/_vendor/x.py": functions(("v", "Copies are left out", "vendored")),
            "../../bin/script.py": functions(("s", "Scripts are left out", "script")),
            "fakepkg/broken.py": functions(("b", "A broken file here", "b")) + "    return (",
            "fakepkg/surrogate.py": functions(("s", "A lone \\ud800 surrogate", "s")),
            "fakepkg/long.py": functions(("s", "A very long text", "x " * 5000)),
        },
    )
    install(
        tmp_path,
        "manymods",
        {f"many/m{i}.py": functions(("f", f"Function of module {i}", f"{i}")) for i in range(60)},
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def pydocs(*packages: str, **options: int) -> DataConfig:
    return DataConfig(source="pydocs", packages=packages, max_text_bytes=2000, **options)


def test_pydocs_keeps_one_document_per_body_and_one_query_per_summary(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = open_source(pydocs("fake-pkg"))  # as pip normalises the name
    assert [(d.id, d.title) for d in source.documents()] == [
        ("fakepkg", "fakepkg"),
        ("fakepkg.a:again", "fakepkg.a.again"),
        ("fakepkg.a:copy", "fakepkg.a.copy"),
    ]
    queries = {q.id: q.text for q in source.queries()}
    assert queries == {
        "query:fakepkg": "The fake package itself",
        "query:fakepkg.a:again": "Summary of number one",
        "query:fakepkg.a:other": "Another summary of it",
    }
    qrels = {q: docs for s in ("train", "dev", "test") for q, docs in source.qrels(s).items()}
    assert qrels == {
        "query:fakepkg": {"fakepkg": 1},
        "query:fakepkg.a:again": {"fakepkg.a:again": 1, "fakepkg.a:copy": 1},
        "query:fakepkg.a:other": {"fakepkg.a:copy": 1},
    }
    assert "left out 1 files that cannot be parsed and 2 docstrings" in capsys.readouterr().err


def test_pydocs_splits_whole_modules(site: Path) -> None:
    source = open_source(pydocs("manymods", test_percent=30, dev_percent=20))
    modules = {
        split: {d.partition(":")[0] for docs in source.qrels(split).values() for d in docs}
        for split in ("train", "dev", "test")
    }
    assert sum(map(len, modules.values())) == 60, "no module is in two splits"
    assert [len(modules[s]) for s in ("train", "dev", "test")] == [28, 10, 22]
    again = open_source(pydocs("manymods", "Fake_Pkg", test_percent=30, dev_percent=20, seed=7))
    assert {q for q in again.qrels("test") if "many" in q} == set(source.qrels("test")), (
        "a module's split depends on nothing else"
    )


def test_pydocs_sample_is_seeded_and_in_order(site: Path) -> None:
    def ids(**options: int) -> list[str]:
        return [d.id for d in open_source(pydocs("manymods", **options)).documents()]

    sample = ids(max_documents=10)
    assert len(sample) == 10
    assert sample == sorted(sample) == ids(max_documents=10)
    assert sample != ids(max_documents=10, seed=1)
    assert set(sample) <= set(ids(max_documents=11))


def test_pydocs_fingerprint(site: Path) -> None:
    base = open_source(pydocs("manymods")).fingerprint()
    assert open_source(pydocs("ManyMods")).fingerprint() == base
    assert open_source(pydocs("manymods", seed=1)).fingerprint() != base
    info = site / "manymods-1.0.dist-info/METADATA"
    info.write_text(info.read_text().replace("Version: 1.0", "Version: 1.1"))
    assert open_source(pydocs("manymods")).fingerprint() != base


def test_pydocs_bad_input(site: Path) -> None:
    with pytest.raises(UserError, match=r"'manymod' is not installed; .* did you mean 'manymods'"):
        open_source(pydocs("manymod"))
    with pytest.raises(UserError, match=r"--data\.test_percent: 60, and 40"):
        validate(Config("x", data=pydocs("manymods", test_percent=60, dev_percent=40)))
    install(site, "nodocs", {"nodocs.py": "x = 1\n"})
    with pytest.raises(UserError, match="no usable docstrings in nodocs"):
        list(open_source(pydocs("nodocs")).documents())


def test_pydocs_does_not_read_what_it_was_not_asked_for(site: Path) -> None:
    found = survey(open_source(pydocs("manymods")), pydocs("manymods"))
    assert all(doc_id.startswith("many.") for doc_id in found.doc_ids)
    assert len(found.doc_ids) == 60
