"""What docs/deep_images.md tells people to type runs, in its order."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from mmclr.cli import main
from mmclr.config import check
from mmclr.data.settings import DataConfig
from mmclr.models.config import ModelConfig

PAGE = (Path(__file__).parents[1] / "docs" / "deep_images.md").read_text(encoding="utf-8")


def blocks(*kinds):
    return re.findall(rf"^```({'|'.join(kinds)})\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_its_configs_are_configs():
    first, satellites = (yaml.safe_load(text) for _, text in blocks("yaml"))
    assert first["base"] == "bands.yaml"
    check(DataConfig, {"train": "x.tar", **satellites["data"]})
    check(ModelConfig, satellites["model"])
    assert len(satellites["data"]["intensity"]["low"]) == satellites["model"]["image"]["channels"]


@pytest.mark.slow
def test_it_runs_from_files_to_vectors(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind, text in blocks("python", "bash", "yaml"):
        if kind == "python":
            told: dict[str, object] = {}
            exec(text, told)
        elif text.startswith("base: bands.yaml"):
            Path("films.yaml").write_text(text)
        elif kind == "bash":
            for line in text.splitlines():
                assert not main(shlex.split(line, comments=True)[1:]), line
    assert told["a"].shape[0] == 2
