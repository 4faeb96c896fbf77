"""An entry of the catalogue, read from a docstring: idea, source with formula, what it reduces to, how it differs."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent

# The paper's name by its number, where it is not the key of what realises it; "": prior work that has no such name.
NAMES = {
    "2103.00020": "convirt",
    "2303.15343": "",
    "2004.11362": "",
    "2205.01917": "coca",
    "2405.18570": "contrastive_gap",
    "2309.14580": "cwcl",
    "2110.06848": "dcl",
    "2305.08675": "improved_vl_baselines",
    "2402.11816": "mcl",
    "2403.11391": "projection_head",
    "2006.09882": "swav",
    "2012.09740": "temperature_behaviour",
    "2305.17746": "whitened_cse",
    "2306.07969": "genecis",
    "2402.02444": "beclr",
    "2305.09062": "susana",
    "2310.02699": "coconut",
    "2307.12168": "hallucinator",
    "2211.10955": "rcal",
    "2309.06651": "conr",
    "2402.11928": "sepclr",
    "2310.14017": "comet",
    "2209.14067": "pamc",
    "2212.13847": "meow",
    "2310.01376": "bacon",
    "2006.10511": "global_local_seg",
    "2407.05528": "lsa_web_noise",
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One objective, head, order, tool or evaluation as the catalogue shows it."""

    key: str
    paper: str  # the name of its paper, which several entries may share; "" where it is prior work of others
    title: str  # its idea in a sentence
    room: str
    file: str
    needs: list[str]  # features, in the vocabulary's words
    cost: str
    state: list[str]  # what it owns, by name and shape in a run of 1,000 samples at D = 512, B = 256
    source: str  # who, where, when
    text: str  # the source with the formula, as in the docstring
    reduces: str
    differs: str
    arxiv: list[str]
    fields: list[dict[str, Any]]  # name, default, comment
    config: str  # what to write in a config, or the command
    presets: list[str]  # shipped configs that use it
    above: tuple[str, ...]  # keys of a config above its fields
    use: str = ""  # its name, where it stands as {use: name}
    warning: str = ""  # where its ready config was measured far below plain InfoNCE
    origin: str = ""  # the file or module of a plugin that it is in; empty: it is one of ours


def parse(docstring: str) -> dict[str, Any]:
    """Return title, source, text, reduces, differs and arxiv of an entry by the law that all docstrings keep."""
    title, *rest = docstring.split("\n\n")
    body, _, differs = "\n\n".join(rest).partition("Differs from the paper:")
    text, _, reduces = body.partition("Reduces to:")
    return {
        "title": " ".join(title.split()),
        "source": _source(text),
        "text": text.strip(),
        "reduces": " ".join(reduces.split()),
        "differs": " ".join(differs.split()),
        "arxiv": re.findall(r"arXiv:?\s*(\d{4}\.\d{4,5})", text),
    }


def paper(key: str, arxiv: list[str]) -> str:
    """Return the name of the paper that an entry realises: of the first that it cites, or its own key."""
    return NAMES.get(arxiv[0], key) if arxiv else key


def _source(text: str) -> str:
    """Return the first sentence of the text up to its year or number, on one line."""
    flat = " ".join(text.split())
    found = re.match(r".*?(arXiv:? ?\d{4}\.\d{4,5}|doi\S+|no arXiv)", flat)
    return found.group(0) if found else flat.split(". ")[0]
