"""The table of commands: complete, quick, and helpful when a word is wrong."""

import argparse
import errno
import importlib
import os
import re
import shlex
import subprocess
import sys
import types

import pytest

from mmclr import __version__, cli, discovery
from mmclr.cli import commands, main
from mmclr.errors import UserError

KNOWN = commands()
# what no help may wait for
HEAVY = {"torch", "numpy", "transformers", "open_clip", "accelerate", "torchvision", "pydantic", "PIL", "rich"}


@pytest.fixture(autouse=True)
def _keep_argv(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mmclr"])


@pytest.fixture
def command(monkeypatch):
    """Return a function that makes `mmclr try it` do as it says."""

    def install(function):
        module = types.ModuleType("a_command")
        module.main = function
        monkeypatch.setitem(sys.modules, "a_command", module)
        monkeypatch.setitem(cli.COMMANDS, "try it", "a_command")

    return install


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"], ["help"]])
def test_help_lists_every_command(argv, capsys):
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = dict(re.fullmatch(r"  mmclr (.*?)  +(.*)", line).groups() for line in lines if line.startswith("  "))
    assert list(shown) == list(KNOWN)
    for name, module in KNOWN.items():
        assert shown[name] == importlib.import_module(module).__doc__.splitlines()[0].removesuffix(".")


def test_help_of_a_group_lists_its_commands_only(capsys):
    for argv in (["data"], ["data", "--help"], ["help", "data"]):
        assert main(argv) == 0
        out = capsys.readouterr().out
        rows = [line for line in out.splitlines() if line.startswith("  mmclr ")]
        assert len(rows) == sum(name.startswith("data ") for name in KNOWN)
        assert all(row.startswith("  mmclr data ") for row in rows)


@pytest.mark.parametrize("argv", [["--help"], ["help"], ["eval", "--help"], ["data", "--help"], ["export"]])
def test_help_of_many_commands_imports_none(argv):
    code = (
        "import sys\nfrom mmclr.cli import main\nbefore = set(sys.modules)\n"
        f"try: main({argv})\nexcept SystemExit: pass\n"
        "print('imported:', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said, _, imported = done.stdout.partition("imported:")
    assert said.startswith("usage: mmclr")
    assert said.count("\n  mmclr ") >= 6
    assert not HEAVY & set(imported.split())
    assert not set(KNOWN.values()) - {KNOWN["eval"]} & set(imported.split())


@pytest.mark.parametrize("name", KNOWN)
def test_a_command_is_its_file_and_says_in_a_line_what_it_does(name):
    word, _, own = name.partition(" ")
    if own:
        assert KNOWN[name].rpartition(".")[2] == own.replace("-", "_")
        assert KNOWN[name].startswith(tuple(f"{room}." for room in cli.ROOMS[word]))
    line = discovery.first_line(KNOWN[name])
    assert 20 <= len(line) <= 95
    assert re.match(r"[A-Z][a-z]+[ ,]", line), "an imperative"
    assert not re.search(r"\?|\bpictures?\b|^(What|How|Whether|Is|Does)\b", line)


@pytest.mark.parametrize(
    "words", [["data", "to_eval"], ["data", "to-eval"], ["eval", "zero-shot"], ["eval", "zero_shot"]]
)
def test_dashes_and_underscores_are_alike(words, capsys):
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    shown = "data to-eval" if words[0] == "data" else "eval zero_shot"
    assert capsys.readouterr().out.startswith(f"usage: mmclr {shown} ")


# commands that make something and say where: all others report, and do it for programs, too
MAKE = {"demo", "train", "compare", "report", "import", "eval all"}
MAKE |= {name for name in KNOWN if name.startswith("export ")} - {"export verify"}
MAKE |= {f"data {name}" for name in ("caption", "icons", "pack", "peek", "reshard", "to-eval", "tokenizer")}


@pytest.mark.parametrize("name", [name for name in KNOWN if name not in MAKE])
def test_what_reports_has_json(name, capsys):
    with pytest.raises(SystemExit):
        main([*name.split(), *["list"] * (name == "data columns"), "--help"])
    assert re.search(r"--json|JSON", capsys.readouterr().out)


TOOL = '''"""Count the vowels of a text."""

import argparse


def main(argv):
    parser = argparse.ArgumentParser()
    parser.add_argument("text")
    print(sum(letter in "aeiou" for letter in parser.parse_args(argv).text))
'''


@pytest.mark.parametrize("word", cli.ROOMS)
def test_a_file_is_a_command(word, tmp_path, monkeypatch, capsys):
    """One is added in a further folder of a room, as if it had been written into it."""
    room = importlib.import_module(cli.ROOMS[word][-1])
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "count_vowels.py").write_text(TOOL)
    monkeypatch.setattr(room, "__path__", [*room.__path__, str(tmp_path)])
    name = "count-vowels" if word == "data" else "count_vowels"
    assert main(["help"]) == 0
    assert re.search(rf"^  mmclr {word} {name} +Count the vowels of a text$", capsys.readouterr().out, re.MULTILINE)
    try:
        assert main([word, "count-vowels", "banana"]) == 0
        assert capsys.readouterr().out == "3\n"
        assert main([word, "cont_vowels"]) == 2
        assert f"did you mean {word} {name}?" in capsys.readouterr().err
    finally:
        for module in [m for m in sys.modules if m.startswith(f"{room.__name__}.own")]:
            del sys.modules[module]


class Parsed(Exception):
    """The parser took the arguments."""


def and_no_more(parse):
    def parsed(parser, argv=None, namespace=None):
        parse(parser, argv, namespace)
        raise Parsed

    return parsed


@pytest.mark.parametrize("name", KNOWN)
def test_examples_of_the_help_parse(name, capsys, monkeypatch):
    command = importlib.import_module(KNOWN[name]).main
    with pytest.raises(SystemExit):
        command(["--help"])
    shown = re.sub(r"\\\n\s*", " ", capsys.readouterr().out.partition("\nexamples:\n")[2])
    for way in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, way, and_no_more(getattr(argparse.ArgumentParser, way)))
    for line in re.findall(r"^\s+(?:accelerate launch .*-m )?mmclr[ .](.*?)(?:\s{3,}.*)?$", shown, re.MULTILINE):
        words = shlex.split(line)
        if " ".join(words).startswith(name):
            with pytest.raises(Parsed):
                command(words[len(name.split()) :])


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mmclr {__version__}\n"


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["trian"], "train"),
        (["docter", "x.yaml"], "doctor"),
        (["eval", "retreival"], "eval retrieval"),
        (["data", "to_evl"], "data to-eval"),
        (["exprot", "hub"], "export hub"),
        (["eval", "retreival", "--help"], "eval retrieval"),
    ],
)
def test_unknown_command_names_the_nearest(argv, meant, capsys):
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.endswith(f"did you mean {meant}?\n")


def test_every_word_is_passed_on_and_the_status_returned(command):
    got = []
    command(lambda argv: got.append(argv) or 3)
    assert main(["try", "it", "try", "--x", "a=b"]) == 3
    assert got == [["try", "--x", "a=b"]]
    command(lambda argv: None)
    assert main(["try", "it"]) == 0


def test_user_error_is_one_sentence_without_traceback(command, capsys):
    def fail(argv):
        raise UserError("shard-3.tar: ends in the middle of a sample; copy it again")

    command(fail)
    assert main(["try", "it"]) == 2
    assert capsys.readouterr().err == "mmclr try it: shard-3.tar: ends in the middle of a sample; copy it again\n"


@pytest.mark.parametrize(("raised", "status"), [(KeyboardInterrupt, 130), (BrokenPipeError, 141)])
def test_signals_become_statuses(command, raised, status, capsys):
    def fail(argv):
        raise raised

    command(fail)
    assert main(["try", "it"]) == status
    assert "Traceback" not in capsys.readouterr().err


def test_a_full_disk_is_a_sentence(command, capsys):
    def fail(argv):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/mine/log.jsonl")

    command(fail)
    assert main(["try", "it"]) == 2
    assert capsys.readouterr().err.startswith("mmclr try it: runs/mine/log.jsonl: No space left on device; make room")


@pytest.mark.parametrize("bug", [ZeroDivisionError(), FileNotFoundError(errno.ENOENT, "no such file", "x")])
def test_bugs_keep_their_traceback(bug, command):
    def fail(argv):
        raise bug

    command(fail)
    with pytest.raises(type(bug)):
        main(["try", "it"])


@pytest.mark.parametrize("buffered", ["", "1"])
def test_a_reader_that_left_makes_no_noise(buffered):
    """Like `mmclr --help | true`: the pipe is closed before the first line is written."""
    lines = ["import os, sys", "r, w = os.pipe()", "os.close(r)", "os.dup2(w, 1)"]
    lines += ["from mmclr.cli import main", "sys.exit(main(['--help']))"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": buffered},
    )
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("name", KNOWN)
def test_command_resolves_and_teaches(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*name.split(), "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: mmclr {name} ")
    assert len(out) > 200, "a help that teaches says what the command does, not only its options"


@pytest.mark.parametrize("name", KNOWN)
def test_command_refuses_an_unknown_option(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*name.split(), "--no-such-option"])
    assert stop.value.code == 2
    assert f"mmclr {name}: error:" in capsys.readouterr().err
