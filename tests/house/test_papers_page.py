"""The catalogue: PAPERS.md is fresh, every entry whole, every ready config valid."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmclr import config, heads, reweighters
from mmclr.errors import UserError
from mmclr.losses import catalogue
from mmclr.losses.weighted_sum import build_terms
from mmclr.papers import catalogue as papers
from mmclr.papers import page
from mmclr.papers.formula import formula

ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / "configs" / "papers").glob("*.yaml"))


def test_the_page_is_fresh():
    assert (ROOT / "PAPERS.md").read_text(encoding="utf-8") == page.page(papers.entries()), "run: make papers"


def test_every_objective_has_a_whole_entry():
    found = papers.entries()
    commands = {
        "clustering",
        "conditional",
        "few_shot",
        "geometry",
        "linear_probe",
        "remember",
        "separability",
        "temperature",
    }
    known = {*catalogue(), *heads.catalogue(), *reweighters.catalogue(), "mcl", "siblings", "balanced", *commands}
    assert {entry.key for entry in found} == known
    for entry in found:
        assert all([entry.title, entry.source, entry.text, entry.reduces, entry.differs]), entry.key
        assert all(field["comment"] for field in entry.fields), entry.key
        assert (ROOT / entry.file).is_file()


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_ready_configs_build_their_objectives(path):
    tree = config.read(path)
    assert build_terms(tree["objectives"])
    assert path.read_text().startswith("# ")


def test_sections_go_by_what_data_there_is():
    """Objectives for plain pairs come first, then one more need at a time."""
    keys = [entry.key for entry in papers.entries()]
    assert keys.index("clip") < keys.index("cacr") < keys.index("cwcl") < keys.index("supcon_label")
    assert page.page(papers.entries()).index("## Images with captions") < page.page(papers.entries()).index(
        "## A frozen image model"
    )


def test_json_is_for_scripts(capsys):
    papers.main(["--json"])
    found = {entry["key"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert found["dclw"]["needs"] == ["image", "text", "scale", "image_id", "caption_id", "weights"]
    assert found["dclw"]["arxiv"] == ["2110.06848"]
    assert found["dclw"]["cost"] == "streamed"
    assert {field["name"]: field["default"] for field in found["dclw"]["fields"]}["sigma"] == 0.5


def test_the_command_prints_all_and_one(capsys):
    done = subprocess.run(
        [sys.executable, "-c", "from mmclr.cli import main; main()", "papers"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert all(key in done.stdout for key in catalogue())
    papers.main(["dclw"])
    assert "w_i = 2 - B * softmax_i" in capsys.readouterr().out


def test_an_unknown_key_names_the_nearest(capsys):
    with pytest.raises(UserError, match="no objective 'sigclip'; did you mean siglip"):
        papers.main(["sigclip"])


def test_a_ready_config_far_below_plain_infonce_has_a_warning(capsys):
    warned = {entry.key for entry in papers.entries() if entry.warning}
    assert {"barlip", "amcl", "mcl", "siamlip"} <= warned
    assert not warned & {"clip", "swav", "mochi"}
    papers.main(["barlip"])
    assert "compare the two on your own data" in capsys.readouterr().out


def test_the_recalls_are_those_of_the_log():
    from benchmarks import papers_recall

    found = papers_recall.tables((ROOT / "LOG.md").read_text(encoding="utf-8"))
    assert found == json.loads(papers.recalls.DATA.read_text())
    assert all("clip" in rows for rows in found.values())
    assert len(found) == 2


def test_entries_name_their_paper():
    """What several entries realise is one name; prior work of others has none."""
    named = {entry.key: entry.paper for entry in papers.entries()}
    assert named["clip"] == "convirt"
    assert named["siglip"] == named["supcon"] == named["supcon_label"] == ""
    assert named["dcl"] == named["dclw"] == "dcl"
    assert named["barlip"] == named["cl2l"] == "improved_vl_baselines"
    assert named["temperature"] == named["hard_infonce"] == "temperature_behaviour"
    assert (named["mcl"], named["conditional"], named["few_shot"]) == ("mcl", "genecis", "beclr")
    assert all(re.fullmatch(r"[a-z0-9_]*", name) for name in named.values())


MODULE = '''"""Words."""
from a.b import draws, total

@config
class One(Base, key="one"):
    """Words."""
    k: int = 3  # words

    def forward(self, x: Tensor) -> Tensor:
        if k < 1:
            raise ValueError("words")
        return draws.uniform(x) + total(x)
'''


def test_what_a_module_computes_is_told_from_where_it_lies():
    """A cost stays fresh when a file moves, is explained or typed otherwise; not when its formula changes."""
    moved = MODULE.replace("from a.b import draws, total", "from c import sample_random\nfrom d import total")
    moved = moved.replace("draws.uniform", "sample_random.uniform").replace("Words", "Others").replace("words", "other")
    moved = moved.replace("x: Tensor) -> Tensor", "x)").replace('(Base, key="one")', "(Other)")
    assert formula(moved) == formula(MODULE)
    for old, new in (("k: int = 3", "k: int = 4"), ("+ total", "- total"), ("k < 1", "k < 2"), ("uniform", "normal")):
        assert formula(MODULE.replace(old, new)) != formula(MODULE), old
