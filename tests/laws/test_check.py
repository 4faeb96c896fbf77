"""`mmclr check`: each law finds the objective that breaks it, and the examples of the documents keep all."""

import json
import re
from pathlib import Path

import pytest

from mmclr.cli import main
from mmclr.errors import UserError
from mmclr.laws import LAWS, command
from tests import parts

ROOT = Path(__file__).parent.parent.parent
BROKEN = str(Path(__file__).with_name("broken.py"))
# Laws about what stands before an objective: a head. No objective can break them by itself.
OF_HEADS = {"teachers_head", "heads_refused"}


@pytest.fixture(autouse=True)
def _as_before():
    with parts.as_before():
        yield


@pytest.fixture
def broken():
    """The cases of the broken objectives by key."""
    return {case.key: case for case in command.cases(BROKEN, [])}


def seen(broken, law):
    return command.judge(broken[law], LAWS[law])


def test_every_law_has_its_breaker(broken):
    assert set(broken) == set(LAWS) - OF_HEADS


@pytest.mark.parametrize("law", [n for n, law in LAWS.items() if n not in OF_HEADS and not law.worlds])
def test_a_law_that_is_broken_is_a_sentence(broken, law):
    finding = seen(broken, law)
    assert not finding.kept, law
    assert len(finding.seen) > 20
    assert "\n" not in finding.seen


@pytest.mark.dist
@pytest.mark.parametrize("law", [n for n, law in LAWS.items() if law.worlds])
def test_a_law_of_processes_that_is_broken_is_a_sentence(broken, law):
    finding = seen(broken, law)
    assert not finding.kept
    assert re.match("the .* of step [12] is another .* processes", finding.seen)


@pytest.mark.parametrize(
    ("law", "said"),
    [
        ("docstring", "lacks a first paragraph of one sentence, an arXiv number, .*'Differs from the paper:'$"),
        ("field_comments", "factor: no comment behind the field"),
        ("tiny_batches", "the value of a batch of 1 is nan"),
        ("names_used", "forward asks for scale, which changes nothing; leave it out"),
        ("derivative", r"the gradient for \w+ is not the derivative: .* off the finite difference"),
        ("own_weights", "factor: no gradient when a share of 0 of the training is done"),
        ("missing_ids", "where three samples have no label"),
        ("saved_state", "kept outside of buffers and parameters"),
        ("half_precision", "the value of bfloat16 features is torch.bfloat16, not float32"),
    ],
)
def test_what_is_said(broken, law, said):
    assert re.search(said, seen(broken, law).seen)


def examples():
    """Return the objectives that README.md and CONTRIBUTING.md show."""
    fence = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md")]
    return [text for page in pages for text in fence.findall(page) if "(Objective, key=" in text]


def test_the_examples_of_the_documents_keep_all(tmp_path, capsys):
    assert len(examples()) == 2
    for number, text in enumerate(examples()):
        path = tmp_path / f"example_{number}.py"
        path.write_text(text)
        assert main(["check", str(path), "--quick"]) == 0, capsys.readouterr().out
        assert "laws are kept (2 laws were left out)" in capsys.readouterr().out


def test_status_and_json_of_one_that_is_broken(tmp_path, capsys):
    text = Path(BROKEN).read_text().partition("class FieldComments")[0]
    (tmp_path / "own.py").write_text(text)
    words = ["check", str(tmp_path / "own.py"), "--quick"]
    assert main([*words, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [finding["law"] for finding in found if not finding["kept"]] == ["docstring"]
    assert all(finding["objective"] == "docstring" and finding["says"] for finding in found)
    assert main([*words, "--without", "docstring"]) == 0
    assert main(words) == 1
    out = capsys.readouterr().out
    assert "FAILS  docstring docstring: the docstring lacks" in out
    assert out.splitlines()[-1].startswith(f"1 of {len(found)} laws are not kept")


def test_an_error_in_forward_is_told_with_its_line(tmp_path):
    (tmp_path / "own.py").write_text(examples()[0].replace("(image - text)", "(image - text[:, :-1])"))
    (case,) = command.cases(str(tmp_path / "own.py"), [])
    told = command.judge(case, LAWS["finite"]).seen
    assert re.match(r"RuntimeError: .*size.*own\.py, line \d+\)$", told)


@pytest.mark.parametrize(
    ("source", "fields", "said"),
    [
        ("clpi", [], "clpi: no file .* no objective; did you mean clip"),
        ("gone.py", [], "check: .*gone.py: no such file"),
        ("json", [], "json: it defines no objective; write class Mine"),
        ("clip", ["kepe_mib=1"], "clip.kepe_mib: unknown key; did you mean keep_mib"),
        ("clip", ["keep_mib"], "'keep_mib' is not an override"),
    ],
)
def test_what_cannot_be_checked_is_one_sentence(source, fields, said):
    with pytest.raises(UserError, match=said):
        command.main([source, *fields])
