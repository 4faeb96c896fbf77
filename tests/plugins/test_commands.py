"""Commands of plugins, and what the command line says of plugins' parts."""

import json

import pytest

from mmclr import plugins
from mmclr.cli import main
from mmclr.papers import catalogue as papers
from mmclr.papers import page
from tests.plugins.own import OWN, SHOUT, install, write


def test_a_command_of_ones_own(tmp_path, capsys):
    file = write(tmp_path / "own.py", SHOUT.format(name="data shout"))
    assert main(["data", "shout", "a", f"--plugins={file}", "b"]) == 3
    assert capsys.readouterr().out == "A B\n"


def test_a_command_of_ours_is_not_replaced(tmp_path, capsys):
    file = write(tmp_path / "own.py", SHOUT.format(name="data stats"))
    assert main(["--plugins", file, "data", "stats", "x.tar"]) == 2
    assert "'data stats' is one of mmclr's own; shout of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "rest", "given"),
    [
        (["eval", "x"], ["eval", "x"], []),
        (["--plugins", "a,b", "eval"], ["eval"], ["a", "b"]),
        (["eval", "x", "--plugins=a", "--plugins", "b"], ["eval", "x"], ["a", "b"]),
    ],
)
def test_what_the_command_line_gives(words, rest, given):
    assert plugins.taken_from(words) == rest
    assert given == plugins.GIVEN


def test_plugins_without_names_is_a_sentence(capsys):
    assert main(["papers", "--plugins"]) == 2
    assert "--plugins: name modules or files" in capsys.readouterr().err


def test_papers_lists_them_and_says_where_they_are(tmp_path, capsys):
    file = write(tmp_path / "own.py", OWN.format(key="mine_listed"))
    plugins.load([write(tmp_path / "open.py", OWN.format(key="mine_open").replace("= 2.0  # of", " # of"))])
    assert main(["papers", "--json", "--plugins", file]) == 0
    found = {entry["key"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert found["mine_listed"]["origin"] == found["mine_listed"]["file"] == file
    assert found["mine_listed"]["fields"] == [{"name": "power", "default": 2.0, "comment": "of the distance"}]
    assert found["mine_open"]["state"] == ["what power decide"]
    assert found["clip"]["origin"] == ""
    assert "mine_listed" not in page.page(papers.entries())


@pytest.mark.parametrize("words", [["data"], ["data", "--help"]])
def test_help_lists_commands_of_ones_own_behind_ours(words, tmp_path, capsys):
    file = write(tmp_path / "own.py", SHOUT.format(name="data shout"))
    assert main([*words, "--plugins", file]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].split() == ["mmclr", "data", "shout", "Say", "it", "loudly"]
    assert any(line.startswith("  mmclr data stats ") for line in lines)


def test_an_installed_package_brings_a_data_tool(tmp_path, monkeypatch, capsys):
    install(tmp_path, "somebodys_tool", SHOUT.format(name="data shout_it"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "_looked", False)
    assert main(["data", "shout-it", "a"]) == 3
    assert capsys.readouterr().out == "A\n"
