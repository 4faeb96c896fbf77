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

from mmclr import __version__, cli
from mmclr.cli import COMMANDS, main
from mmclr.errors import UserError


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
        monkeypatch.setitem(cli.COMMANDS, "try it", ("a_command:main", "try it"))

    return install


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"]])
def test_help_lists_every_command(argv, capsys):
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, (_, text) in COMMANDS.items():
        assert any(line.split("  ")[1].startswith(f"mmclr {name}") and line.endswith(text) for line in lines if line), (
            name
        )


def test_help_of_a_group_lists_its_commands_only(capsys):
    for argv in (["data"], ["data", "--help"]):
        assert main(argv) == 0
        out = capsys.readouterr().out
        rows = [line for line in out.splitlines() if line.startswith("  mmclr ")]
        assert len(rows) == sum(name.startswith("data ") for name in COMMANDS)
        assert all(row.startswith("  mmclr data ") for row in rows)


class Parsed(Exception):
    """The parser took the arguments."""


def and_no_more(parse):
    def parsed(parser, argv=None, namespace=None):
        parse(parser, argv, namespace)
        raise Parsed

    return parsed


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_of_the_help_parse(name, capsys, monkeypatch):
    module, function = COMMANDS[name][0].split(":")
    command = getattr(importlib.import_module(module), function)
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
    [(["trian"], "train"), (["docter", "x.yaml"], "doctor"), (["eval", "retreival"], "eval retrieval")],
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


@pytest.mark.parametrize("name", COMMANDS)
def test_command_resolves_and_teaches(name, capsys):
    module, function = COMMANDS[name][0].split(":")
    assert callable(getattr(importlib.import_module(module), function))
    with pytest.raises(SystemExit) as stop:
        main([*name.split(), "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: mmclr {name} ")
    assert len(out) > 200, "a help that teaches says what the command does, not only its options"


@pytest.mark.parametrize("name", COMMANDS)
def test_command_refuses_an_unknown_option(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*name.split(), "--no-such-option"])
    assert stop.value.code == 2
    assert f"mmclr {name}: error:" in capsys.readouterr().err
