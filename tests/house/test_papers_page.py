"""The catalogue: PAPERS.md is fresh, every entry whole, every ready config valid."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mmclr import config, heads, reweighters
from mmclr.errors import UserError
from mmclr.losses import catalogue
from mmclr.losses.weighted_sum import build_terms
from mmclr.papers import catalogue as papers

ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / "configs" / "papers").glob("*.yaml"))


def test_the_page_is_fresh():
    assert (ROOT / "PAPERS.md").read_text(encoding="utf-8") == papers.page(), "run: mmclr papers --write PAPERS.md"


def test_every_objective_has_a_whole_entry():
    found = papers.entries()
    assert {entry.key for entry in found} == set(catalogue()) | set(heads.catalogue()) | set(
        reweighters.catalogue()
    ) | {"mcl"}
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
    assert papers.page().index("## Pictures with captions") < papers.page().index("## A frozen image model")


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
