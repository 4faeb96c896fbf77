"""Text of data is said literally: no markup, no control sequences, in any encoding of the terminal."""

import ast
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.progress import Progress, TextColumn
from rich.table import Table

from mmclr.display.console import Console
from mmclr.display.terminal import HOSTILE, one_line, plain, say

ROOT = Path(__file__).parents[2]
SOURCES = [path for top in ("mmclr", "eval", "data_tools") for path in sorted((ROOT / top).rglob("*.py"))]
MARKUP = (
    "a[/b]",
    "[/x]",
    "[bold]x",
    "[link=file:///etc]x[/link]",
    ":smile:",
    "[",
    "\\[x]",
    "a\\",
    "{task.total}",
    "%s",
)
CONTROL = ("\x1b[2J", "a\rb", "a\bb", "\x9b31m", "\x1b]0;title\x07", "\u202eabc", "\u2066x", "a\x00b", "\udcff", "\x7f")
texts = st.text(st.characters(exclude_characters="\n"), max_size=40) | st.sampled_from([*MARKUP, *CONTROL])


@given(texts)
def test_nothing_that_a_terminal_obeys_is_left(text):
    shown = plain(text)
    assert not HOSTILE.search(shown)
    assert plain(shown) == shown
    assert "\n" not in one_line(f"{text}\n{text}")
    assert shown == text or HOSTILE.search(text)


@pytest.mark.parametrize("text", MARKUP + CONTROL)
def test_the_console_shows_text_as_it_is(text):
    file = io.StringIO()
    console = Console(file=file, width=200)
    table = Table(text, title=text)
    table.add_row(text)
    console.print(text, soft_wrap=True)
    console.print(table)
    assert file.getvalue().count(plain(text)) == 4  # the line, and title, head and cell of the table


def test_columns_of_progress_bars_show_text_as_it_is():
    file = io.StringIO()
    with Progress(TextColumn("{task.description}", markup=False), console=Console(file=file, width=100)) as bars:
        bars.add_task("a[/b]", total=1)
    assert "a[/b]" in file.getvalue()


@pytest.mark.parametrize(
    ("encoding", "command"),
    [("ascii", ["report"]), ("utf-8", ["data", "stats"]), ("cp1252", ["data", "verify"])],
)
def test_any_terminal_takes_any_name(command, encoding, tmp_path):
    name = os.fsencode("[/x]\udcff\x1b[2J‮–é")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "mmclr.cli", *command, name],
        cwd=tmp_path,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": f"{encoding}:strict", "PYTHONPATH": str(ROOT)},
    )
    said = (done.stdout + done.stderr).decode(encoding, "strict")
    assert done.returncode in (1, 2)
    assert "Traceback" not in said
    assert "[/x]" in said
    assert "\x1b" not in said


def test_everything_is_said_through_one_place():
    """A bare print or console would show what comes from data as it is."""
    allowed = {"mmclr/display/terminal.py", "mmclr/display/console.py", "mmclr/doctor/probe.py"}
    json_and_help = {"mmclr/papers/catalogue.py": 1, "mmclr/cli.py": 1}
    for path in SOURCES:
        name, tree = path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "print"]
        assert name in allowed or len(calls) <= json_and_help.get(name, 0), f"{name}: use say()"
        assert name in allowed or "from rich.console" not in path.read_text(), f"{name}: take mmclr.display.console"
        assert "from_markup" not in path.read_text(), name


def test_what_is_said_has_no_secret(capsys):
    say("http://u:S3CRET@h/a.tar?S3CRET")
    assert capsys.readouterr().out == "http://…@h/a.tar?…\n"


def test_a_traceback_has_no_secret():
    code = "from mmclr.errors import run; run('x', lambda _: open('http://u:p@h/' + 'a.tar?sig=' + 'S3' + 'CRET'), [])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "FileNotFoundError: [Errno 2] No such file or directory: 'http:" in done.stderr
    assert "S3CRET" not in done.stderr
