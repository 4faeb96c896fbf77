"""What people write behind key=: text is taken as it stands, numbers as numbers, and anything else is one sentence."""

import contextlib
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmclr.config import ConfigError, load, parse_override, read
from mmclr.errors import UserError
from mmclr.losses.weighted_sum import build_terms
from mmclr.storage import yaml_text
from mmclr.train.run import RunConfig
from tests.overrides import KEYS, TEXTS, VALUES


def run(*overrides, config="debug.yaml"):
    return load(RunConfig, config, ["data.train=x.tar", *overrides])


@pytest.mark.parametrize("text", TEXTS)
def test_text_stays_as_it_stands(text):
    assert run(f"teacher={text}").teacher == text
    assert run(f"init.source= {text} ").init.source == text
    assert run(f"teacher='{text.replace(chr(39), chr(39) * 2)}'").teacher == text


@pytest.mark.parametrize(
    "text", ["{00000..00001}.tar", "*.tar", "a#b.tar", "my [data]/0.tar", "{a,b}", "001", "pipe:cat x"]
)
def test_patterns_of_shards_need_no_quotes(text):
    assert run(f"data.train={text}").data.train == text


def test_what_is_no_text_is_yaml():
    assert run("data.train=[a.tar, b.tar]").data.train == ["a.tar", "b.tar"]
    mixture = run("data.train={web: {urls: '*.tar', weight: 2}}").data.train
    assert mixture["web"].weight == 2
    made = run("optim.lr=5e-4", "optim.betas=[0.8, 0.9]", "steps=010", "data.batch=1_024", "optim.clip_norm=null")
    assert (made.optim.lr, made.optim.betas, made.steps, made.data.batch) == (5e-4, (0.8, 0.9), 10, 1024)
    assert made.optim.clip_norm is None
    assert run("steps=10 # ten").steps == 10


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    made = run("data.train=~/a.tar::~/b/*.tar", "out=~", "teacher=~/t", "evaluate.e={suite: loss, data: ~/c.tar}")
    assert made.data.train == "/home/me/a.tar::/home/me/b/*.tar"
    assert (made.out, made.teacher, made.evaluate["e"]["data"]) == ("/home/me", "/home/me/t", "/home/me/c.tar")
    assert run("teacher=a~/b").teacher == "a~/b"


def test_a_length_of_the_command_line_wins():
    for key, value in (("steps", 7), ("epochs", 2.0), ("samples", 99)):
        made = load(RunConfig, "base.yaml", ["data.train=x", f"{key}={value}"])
        assert {k: getattr(made, k) for k in ("steps", "epochs", "samples")} == {
            "steps": None,
            "epochs": None,
            "samples": None,
            key: value,
        }
    with pytest.raises(ConfigError, match="exactly one of steps, epochs, samples"):
        run("steps=1", "epochs=1")


def test_a_length_of_a_file_wins_over_its_bases(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: base.yaml\nsamples: 50\n")
    assert load(RunConfig, tmp_path / "mine.yaml", ["data.train=x"]).epochs is None
    (tmp_path / "both.yaml").write_text("base: base.yaml\nsamples: 50\nsteps: 2\n")
    with pytest.raises(ConfigError, match="exactly one"):
        load(RunConfig, tmp_path / "both.yaml", ["data.train=x"])


@pytest.mark.parametrize("config", ["base.yaml", "debug.yaml", {"model": {}, "steps": 1}])
def test_a_term_is_added_to_clip(config):
    made = load(RunConfig, config, ["data.train=x", "objectives.uniformity.weight=0.5"])
    assert made.objectives == {"clip": {}, "uniformity": {"weight": 0.5}}
    alone = load(RunConfig, config, ["data.train=x", "objectives={clip: null, uniformity: {}}"])
    assert list(build_terms(alone.objectives)) == ["uniformity"]


@pytest.mark.parametrize("text", ["steps", "=1", ".a=1", "a..b=1", "a. =1", ""])
def test_what_is_no_override_is_said(text):
    with pytest.raises(ConfigError, match="is not an override"):
        run(text)


@pytest.mark.parametrize("name", ["a/b", "..", ".", "'  '", "x" * 300])
def test_a_name_is_that_of_a_folder(name):
    if name == "'  '":
        assert run(f"name={name}").name == "  "
        return
    with pytest.raises(ConfigError, match="name: "):
        run(f"name={name}")


@pytest.mark.parametrize("name", ["../x", "a/b", "", "x" * 300])
def test_an_evaluation_has_the_name_of_a_file(name):
    with pytest.raises(ConfigError, match=r"eval/NAME\.json"):
        load(RunConfig, {"data": {"train": "x"}, "model": {}, "steps": 1, "evaluate": {name: {"suite": "loss"}}})


@pytest.mark.parametrize("value", ['"a\\0b"', '"\\ud83d"', os.fsdecode(b"caf\xe9")])
def test_what_no_file_can_hold_is_refused(value):
    with pytest.raises(ConfigError, match="half of a character"):
        run(f"name={value}")


@pytest.mark.parametrize(
    "value", ["9" * 5000, "[" * 10_000, "{a: " * 3000, ".nan", ".inf", "-.inf", "1e999", "-1", "x"]
)
def test_numbers_that_are_none_are_one_sentence(value):
    keys = ("steps", "optim.lr", "data.batch", "guard.spike", "seed")
    for key in keys[: 1 if "[[" in value else None]:  # PyYAML takes seconds to find out how deep it is
        if (key, value) == ("seed", "-1") or key != "seed":
            with pytest.raises(ConfigError):
                run(f"{key}={value}" if value != "-1" else f"{key}=-1")


def test_aliases_cannot_blow_a_config_up(tmp_path):
    rows = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    (tmp_path / "bomb.yaml").write_text("\n".join(rows))
    with pytest.raises(ConfigError, match="more than 100,000 values"):
        read(tmp_path / "bomb.yaml")


@pytest.mark.parametrize(
    "text", ["1: a", "[a]", "base: [x]", "base: 3", "\x00", "a: \x07", "- - -", "a: b: c", "\t", "? [a]"]
)
def test_files_that_are_no_config_are_one_sentence(text, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        load(RunConfig, path, ["data.train=x"])
    path.write_bytes(b"\xff\xfe" + text.encode("utf-16-le"))
    with pytest.raises(ConfigError):
        load(RunConfig, path, ["data.train=x"])


def test_a_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "c.yaml").write_text("base: debug.yaml\nname: 001\n", encoding="utf-8-sig")
    assert load(RunConfig, tmp_path / "c.yaml", ["data.train=x"]).name == "001"


def fuzz(key, value):
    with contextlib.suppress(UserError):
        build_terms(load(RunConfig, "debug.yaml", ["data.train=x.tar", f"{key}={value}"]).objectives)


@settings(max_examples=60)
@given(st.sampled_from(KEYS), VALUES)
def test_any_override_is_taken_or_one_sentence(key, value):
    fuzz(key, value)


@pytest.mark.slow
@settings(max_examples=3000)
@given(st.sampled_from(KEYS) | st.text(max_size=12), VALUES)
def test_many_overrides_are_taken_or_one_sentence(key, value):
    fuzz(key, value)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_any_text_can_be_quoted(text):
    value = parse_override(f"teacher={_quoted(text)}", RunConfig)["teacher"]
    assert value == text


def _quoted(text):
    return json.dumps(text, ensure_ascii=True) if all(ord(c) < 0x10000 for c in text) else _long(text)


def _long(text):
    return '"' + "".join(f"\\U{ord(c):08x}" for c in text) + '"'


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", "010"),
        ("10", 10),
        ("0x1f", 31),
        ("-3", -3),
        ("1_000", 1000),
        ("5e-4", 5e-4),
        ("1.5", 1.5),
        (".5", 0.5),
        ("no", "no"),
        ("~", None),
        ("true", True),
        ("12:30", "12:30"),
        ("2026-01-02", "2026-01-02"),
        ("0", 0),
        ("-0.0", 0.0),
        ("00", "00"),
    ],
)
def test_yaml_is_the_core_schema(text, value):
    found = yaml_text.parse(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.train=", "data.train: it needs a value; write data.train=VALUE"),
        ("data.train=???", "data.train: this config leaves it open; write data.train=VALUE"),
        ("data.train={a: 1}", "data.train.a: input should be a mapping of keys to values (got 1)"),
        ("data.train={a: {urls: null}}", "data.train.a.urls: it needs a value; write data.train.a.urls=VALUE"),
        ("data.caption=[1]", "data.caption: a text or a mapping of keys to values is asked for (got [1])"),
        ("threads=many", "threads: a whole number or auto is asked for (got 'many')"),
        ("threads=0", "threads: input should be greater than or equal to 1 (got 0)"),
    ],
)
def test_a_fault_has_one_line_whatever_types_a_key_takes(override, said):
    with pytest.raises(ConfigError) as error:
        load(RunConfig, "base.yaml", ["data.train=x", override])
    assert str(error.value) == said
