"""Rules over several fields of the towers. Those of a shape also hold for one that is read from
weights: `models/tower.py` calls them again. Not for files on disk.
"""

from __future__ import annotations

from dataclasses import replace

from scalingnote_jax.config import (
    BertShape,
    Config,
    DecoderShape,
    LoraConfig,
    ModernBertShape,
    TowerConfig,
)
from scalingnote_jax.config.check_fields import check_fields
from scalingnote_jax.config.forms.prompt import MARKER, last_words
from scalingnote_jax.config.student import follows_teacher, one_model
from scalingnote_jax.config.towers import BY_VECTORS, ENDS, FIRST, NO_LAYERS, SAME_MODEL, Shape
from scalingnote_jax.config.values import field_values
from scalingnote_jax.errors import bad_input


def known_dim(cfg: TowerConfig) -> int:
    """D, if the config says it; 0 where the weights do."""
    return cfg.projection or (cfg.shape.hidden_size if cfg.shape else 0)


def check_tower(cfg: TowerConfig, where: str) -> None:
    """A tower's fields, and all that the config alone says about it.

    Args:
        where: what it is called in the config: "teacher.query".

    Raises:
        UserError: settings that cannot work together.
    """
    check_fields(cfg, f"{where}.")
    _check_text(cfg, where)
    lora, field = cfg.lora, f"--{where}.lora"
    if lora.base_dtype != "float32" and not lora.rank:
        given, fix = f"{lora.base_dtype!r} with rank 0", f"set {field}.rank to 16"
        raise bad_input(f"{field}.base_dtype", given, "adapters, as nothing else is trained", fix)
    if lora.rank and not lora.modules:
        given, expected = "none with adapters", "regular expressions of weights"
        raise bad_input(f"{field}.modules", given, expected, "such as layers/")
    if cfg.body_only and cfg.weights in ("random", FIRST, ENDS):
        given, fix = f"true, with weights={cfg.weights!r}", "leave it out"
        raise bad_input(f"--{where}.body_only", given, "a folder that has more than a body", fix)
    if cfg.weights in (FIRST, ENDS):
        return
    if cfg.shape is not None:
        check_fit(cfg, _used(cfg, cfg.shape, where), where)
    elif cfg.weights == "random":
        raise bad_input(
            f"--{where}.shape",
            "none, with weights='random'",
            "a DecoderShape, a BertShape or a ModernBertShape",
            "set it in the config file",
        )
    elif cfg.num_layers == NO_LAYERS:
        _check_lookup(cfg, where)


def check_fit(cfg: TowerConfig, shape: Shape, where: str) -> None:
    """Whether a shape can be, and the rest of the tower's config with it.

    Args:
        shape: of the layers that are used; the config's own, or one read from weights.

    Raises:
        UserError: settings that cannot work together.
    """
    check_fields(shape, f"{where}.shape.")
    _check_shape(shape, where)
    if isinstance(shape, BertShape) and cfg.text.max_tokens > shape.max_positions:
        raise bad_input(
            f"--{where}.text.max_tokens",
            str(cfg.text.max_tokens),
            f"at most {shape.max_positions}, the positions of {cfg.weights} (max_positions)",
            "lower it",
        )
    if not shape.num_layers:
        if not isinstance(shape, DecoderShape):
            _refuse_lookup(where, "num_layers", "no layers of an encoder", "a decoder's table")
        _check_lookup(cfg, where)
    _check_attention(cfg, shape, where)


def _used(cfg: TowerConfig, shape: Shape, where: str) -> Shape:
    if cfg.num_layers > shape.num_layers:
        expected = f"0 (all) to {shape.num_layers}, the layers of the model"
        given = f"num_layers {cfg.num_layers}"
        raise bad_input(f"--{where}.num_layers", given, expected, "change it")
    if not cfg.num_layers:
        return shape
    return replace(shape, num_layers=max(cfg.num_layers, 0))


def _check_shape(shape: Shape, where: str) -> None:
    """Sizes divide where they must."""

    def refuse(field: str, given: float, expected: str) -> None:
        raise bad_input(f"--{where}.shape.{field}", str(given), expected, "change the shape")

    if isinstance(shape, DecoderShape):
        if shape.num_heads % shape.num_kv_heads:
            refuse("num_kv_heads", shape.num_kv_heads, f"a divisor of {shape.num_heads} heads")
        if shape.head_dim % 2:
            refuse("head_dim", shape.head_dim, "an even number, for rotary positions")
        return
    if shape.hidden_size % shape.num_heads:
        refuse("num_heads", shape.num_heads, f"a divisor of hidden_size {shape.hidden_size}")
    if isinstance(shape, ModernBertShape) and shape.hidden_size // shape.num_heads % 2:
        expected = "heads of an even size, for rotary positions"
        refuse("num_heads", shape.num_heads, expected)


def _check_text(cfg: TowerConfig, where: str) -> None:
    """Buckets cover max_tokens."""
    text, field = cfg.text, f"--{where}.text"
    if list(text.buckets) != sorted(set(text.buckets)) or not text.buckets:
        raise bad_input(
            f"{field}.buckets", str(text.buckets), "rising positive lengths", "sort them"
        )
    if text.buckets[-1] != text.max_tokens:
        raise bad_input(
            f"{field}.buckets",
            f"{text.buckets}, max_tokens {text.max_tokens}",
            "a last bucket equal to max_tokens",
            "make them equal",
        )


def _refuse_lookup(where: str, field: str, given: str, expected: str) -> None:
    raise bad_input(f"--{where}.{field}", given, expected, "change it, or keep some layers")


def _check_lookup(cfg: TowerConfig, where: str) -> None:
    """A tower without layers has nothing but a table of token vectors and a projection."""
    if cfg.pooling != "mean":
        given = f"{cfg.pooling!r} of tokens that see no other"
        _refuse_lookup(where, "pooling", given, "'mean'")
    for name, off in (("bidirectional", False), ("dropout", 0.0), ("remat", "none")):
        if (value := getattr(cfg, name)) != off:
            _refuse_lookup(where, name, f"{value!r} without layers", repr(off))
    if cfg.lora != LoraConfig():
        _refuse_lookup(where, "lora", "adapters without layers", "no adapters")


def _check_attention(cfg: TowerConfig, shape: Shape, where: str) -> None:
    """The pooled token has seen the text: which one has depends on what sees what."""
    causal = isinstance(shape, DecoderShape) and not cfg.bidirectional

    def refuse(field: str, given: str, expected: str) -> None:
        raise bad_input(f"--{where}.{field}", given, expected, "choose another value")

    if cfg.bidirectional and not isinstance(shape, DecoderShape):
        refuse("bidirectional", "true for an encoder, which always is", "false")
    if cfg.pooling == "cls" and causal:
        refuse("pooling", "'cls' on a decoder, whose first token sees no other", "'last' or 'mean'")
    if cfg.pooling == "marker" and not causal:
        refuse(
            "pooling", "'marker' where tokens see those behind the marker too", "'last' or 'mean'"
        )


def _check_words(cfg: TowerConfig, where: str) -> None:
    """What turns texts into tokens: a planned tower has no need of it."""
    prompt = cfg.text.prompt
    if cfg.pooling == "marker" and MARKER not in last_words(prompt):
        expected = f"{MARKER} behind title and text, for pooling='marker'"
        raise bad_input(f"--{where}.text.prompt", repr(prompt), expected, "add it at the end")
    if cfg.weights == "random" and not cfg.tokenizer:
        expected = "one, as random weights bring none"
        raise bad_input(f"--{where}.tokenizer", "none", expected, "such as 'bytes'")


def _check_known_by_vectors(config: Config, side: str) -> None:
    """A tower of the teacher that is not here: whatever would need it is something else's."""
    field, given = f"--teacher.{side}.weights", f"{BY_VECTORS!r}, a tower that is not here"
    if config.train.duration:
        raise bad_input(field, given, "a tower to train", "set --train.duration= (nothing)")
    if side == "doc":
        if not config.encode.vectors:
            fix = "set --encode.vectors, or name the tower"
            raise bad_input(field, given, "document vectors in its place", fix)
        return
    if config.distill.duration and not config.distill.query_vectors:
        fix = "set --distill.query_vectors, or name the tower"
        raise bad_input(field, given, "its vectors of queries, to learn from", fix)
    student, refine = config.distill.student.weights, config.refine.duration
    expected = f"nothing that needs the teacher's query tower, which is {BY_VECTORS!r}"
    if config.distill.duration and student.startswith("teacher:"):
        raise bad_input("--distill.student.weights", repr(student), expected, "name a model")
    if refine:
        raise bad_input("--refine.duration", repr(refine), expected, "leave it out")


def _check_teacher(config: Config) -> None:
    teacher = config.teacher
    for side, cfg in (("query", teacher.query), ("doc", teacher.doc)):
        if cfg.weights == SAME_MODEL and side == "doc":
            one_model(teacher)
            continue
        if cfg.weights == BY_VECTORS:
            _check_known_by_vectors(config, side)
            continue
        if cfg.weights == SAME_MODEL or cfg.weights.startswith("teacher:"):
            expected = "weights of its own: only a student starts from the teacher"
            fix = "name a model, or 'random'"
            raise bad_input(f"--teacher.{side}.weights", repr(cfg.weights), expected, fix)
        check_tower(cfg, f"teacher.{side}")
        _check_words(cfg, f"teacher.{side}")
    query, doc = known_dim(teacher.query), known_dim(teacher.doc)
    if query and doc and query != doc:
        raise bad_input(
            "--teacher",
            f"query vectors of D = {query}, document vectors of D = {doc}",
            "the same D on both sides",
            "set --teacher.query.projection and --teacher.doc.projection alike",
        )
    if BY_VECTORS in (teacher.query.weights, teacher.doc.weights):
        return
    same = one_model(teacher)  # "query" is filled in later, with what the weights bring
    if teacher.share and replace(same.query, text=same.doc.text) != same.doc:
        ours, theirs = field_values(teacher.query), field_values(teacher.doc)
        names = [n for n in (*ours, *theirs) if not n.startswith("text.")]
        name = next(n for n in names if ours.get(n) != theirs.get(n))
        given = f"true, with {name} {ours.get(name)!r} for queries, {theirs.get(name)!r} for docs"
        fix = "make them alike, or set it to false"
        raise bad_input("--teacher.share", given, "two sides that differ in `text` only", fix)


def _check_student(config: Config) -> None:
    """Also a student that starts from the teacher, as far as the config says what that is."""
    student, teacher, where = config.distill.student, config.teacher.query, "distill.student"
    check_tower(student, where)
    if not config.distill.duration:
        return
    _check_words(student, where)
    if not student.weights.startswith("teacher:"):
        ours, theirs = known_dim(student), known_dim(teacher)
        if ours and theirs and ours != theirs:
            given, fix = f"student vectors of D = {ours}", f"set it to {theirs}"
            raise bad_input(f"--{where}.projection", given, f"the teacher's {theirs}", fix)
        return
    shape = student.shape if teacher.shape is None else teacher.shape
    _check_words(follows_teacher(student, teacher, shape), where)


TOWER_RULES = (_check_teacher, _check_student)
