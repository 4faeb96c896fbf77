"""docs/beside_pairs.md: every command there is one, its options are known, and its config builds."""

import re
import shlex
from pathlib import Path

import pytest
from mmclr.eval import suites

from mmclr.cli import commands
from mmclr.config import find, load
from mmclr.train.run import RunConfig

PAGE = (Path(__file__).parents[2] / "docs" / "beside_pairs.md").read_text(encoding="utf-8")
SAID = sorted({*re.findall(r"`(mmclr [^`]+)`", PAGE), *re.findall(r"^mmclr .+$", PAGE.replace("\\\n", " "), re.M)})
SHARDS = ["data.train=shards/a.tar"]


@pytest.mark.parametrize("text", SAID)
def test_a_command_of_the_page_is_understood(text):
    words = shlex.split(text)[1:]
    if words[0] == "train":
        overrides = [word.replace("=MODEL", "=runs/a").replace("=RUN", "=runs/a") for word in words[2:]]
        config = load(RunConfig, find(words[1]), [*overrides, *SHARDS * ("data.train" not in text)])
        assert config.objectives
        return
    name = " ".join(words[:2]) if " ".join(words[:2]) in commands() else words[0]
    assert name in commands(), text
    if name.startswith("eval ") and words[1] in suites.names():
        suites.find(words[1]).parser().parse_args(words[2:])


def test_the_page_has_commands():
    assert len(SAID) >= 15
