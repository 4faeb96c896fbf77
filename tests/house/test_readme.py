"""What README.md tells people to type exists: commands, options, configs, overrides, make targets, extras."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from mmclr.cli import commands as all_commands
from mmclr.cli import main
from mmclr.config import ConfigError, load, parse_override
from mmclr.train.run import RunConfig

ROOT = Path(__file__).parents[2]
LAUNCHED = {"mmclr.train": "train"}  # modules that `accelerate launch -m` starts, and the command that they are


def commands(markdown):
    """Return the shell commands of the fenced bash blocks, one list of words each."""
    found = []
    for block in re.findall(r"^```(?:bash|sh|shell|console)\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and re.fullmatch(r"[A-Z_][A-Z0-9_]*=.*", words[0]):
                words.pop(0)  # VARIABLE=value before a command
            for part in " ".join(map(shlex.quote, words)).split(" '&&' "):
                found += [shlex.split(part)] if part else []
    return found


def as_mmclr(words):
    """Return the arguments that `mmclr` gets from a command, or None if it is not one of ours."""
    program = Path(words[0]).name
    if program == "mmclr":
        return words[1:]
    if program in ("accelerate", "torchrun", "python", "python3") and "-m" in words:
        at = words.index("-m") + 1
        if words[at].startswith("mmclr"):
            return [LAUNCHED.get(words[at], words[at]), *words[at + 1 :]]
    return None


def faults(words, help_of):
    """Return what in one command would not work."""
    args = as_mmclr(words)
    if args is not None:
        return mmclr_faults(args, help_of)
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return [f"no make target {word!r}" for word in words[1:] if "=" not in word and word not in targets]
    if words[:2] == ["pip", "install"]:
        wanted = re.search(r"\[([a-z,]+)\]", " ".join(words))
        known = re.findall(r"^([a-z]+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        return [f"no extra {extra!r}" for extra in (wanted[1].split(",") if wanted else ()) if extra not in known]
    return []


def mmclr_faults(args, help_of):
    if args[:1] in (["--help"], ["--version"]):
        return []
    name = next((n for n in (" ".join(args[:2]), args[0]) if n in all_commands()), None)
    if name is None:
        return [f"no command {' '.join(args[:2])!r}"]
    rest, text = args[len(name.split()) :], help_of(name)
    options = [word.split("=")[0] for word in rest if re.match(r"--?[a-z]", word)]
    out = [f"mmclr {name} has no option {o!r}" for o in options if not re.search(rf"(?<![\w-]){o}(?![\w-])", text)]
    for word in rest:
        if word.startswith("configs/") and not (ROOT / word).exists():
            out.append(f"there is no {word}")
    return out + (override_faults(rest) if name in ("train", "doctor") else [])


def override_faults(words):
    """Check the config and the overrides of a training command against the typed config."""
    paths = [word for word in words if word.endswith(".yaml") and "=" not in word]
    overrides = [word for word in words if "=" in word and not word.startswith("-")]
    try:
        for word in overrides:
            parse_override(word)
        if paths and any((ROOT / "configs").rglob(Path(paths[0]).name)):
            load(RunConfig, ROOT / paths[0], overrides)
    except ConfigError as error:
        return [str(error)]
    return []


@pytest.fixture(scope="module")
def help_of():
    import contextlib
    import io

    texts = {}

    def ask(name):
        if name not in texts:
            out, before = io.StringIO(), sys.argv
            with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
                main([*name.split(), "--help"])
            sys.argv[:] = before
            texts[name] = out.getvalue()
        return texts[name]

    return ask


README = commands((ROOT / "README.md").read_text())


@pytest.mark.parametrize("words", README, ids=" ".join)
def test_command_of_the_readme(words, help_of):
    assert faults(words, help_of) == []


def test_readme_shows_the_whole_way():
    """From own shards to a model in transformers, in commands that the test above really saw."""
    seen = {" ".join((as_mmclr(words) or ["-"])[:2]) for words in README} | {" ".join(words[:2]) for words in README}
    assert {"make demo", "make test"} <= seen
    assert any(words[0] == "accelerate" for words in README)
    assert {word.split()[0] for word in seen} >= {"train", "eval", "export", "data"}


def test_yaml_of_the_readme_parses():
    for block in re.findall(r"^```yaml\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL):
        assert isinstance(yaml.safe_load(block), dict)


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)#\s]+)\)", (ROOT / "README.md").read_text()):
        assert target.startswith(("http://", "https://")) or (ROOT / target).exists(), target


@pytest.mark.parametrize(
    ("markdown", "fault"),
    [
        ("mmclr trian x", "no command 'trian x'"),
        ("mmclr doctor --fxi", "no option '--fxi'"),
        ("A=1 accelerate launch --num_processes 2 \\\n  -m mmclr.trian x.yaml", "no command 'mmclr.trian x.yaml'"),
        ("cd somewhere && make dmeo", "no make target 'dmeo'"),
        ("$ pip install -e '.[demo,dve]'  # comment", "no extra 'dve'"),
        ("mmclr doctor configs/nowhere.yaml", "there is no configs/nowhere.yaml"),
        ("mmclr train configs/debug.yaml data.train=x optmi.lr=1", "did you mean optim?"),
        ("accelerate launch -m mmclr.train debug.yaml 'data.train=x.tar' data.bacth=3", "did you mean batch?"),
    ],
)
def test_the_check_finds_faults(markdown, fault, help_of):
    found = [f for words in commands(f"text\n\n```bash\n{markdown}\n```\n") for f in faults(words, help_of)]
    assert len(found) == 1
    assert fault in found[0]


def test_the_check_lets_good_commands_pass(help_of):
    good = "```bash\nmake demo && make test\nmmclr doctor --fix\npip install 'mmclr[demo]'\nmmclr --help\nls x\n```\n"
    parsed = commands(good)
    assert len(parsed) == 6
    assert [fault for words in parsed for fault in faults(words, help_of)] == []
