"""The demo from nothing to its report, cut short: every stage leaves what it promises, and it goes on where it was."""

import importlib.util

import pytest

from mmclr.demo.command import STAGES, main


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("qtawesome") is None, reason="the fonts come with pip install 'mmclr[demo]'"
)
def test_the_whole_line(tmp_path, capsys):
    out = tmp_path / "demo"
    main(["--out", str(out), "steps=4", "log_every=1"])
    said = capsys.readouterr().out
    assert all(f"{number}/{STAGES} " in said for number in range(1, STAGES + 1))
    assert f'transformers.AutoModel.from_pretrained("{out / "export"}")' in said  # whole, to be copied
    page = (out / "report.html").read_text("utf-8")
    for head in ("What it finds", "What it sees", "What it writes", "How they lie", "Training", "Export"):
        assert f"<h2>{head}</h2>" in page
    assert {path.stem for path in (out / "eval").glob("*[!s].json")} == {"retrieval", "zero_shot", "caption"}
    steps = [path.name for path in (out / "captions" / "checkpoints").iterdir()]
    assert steps == ["step-00000004"]  # no longer than the training it stands on
    main(["--out", str(out), "steps=4", "log_every=1"])
    assert "resuming after step 4 of 4" in capsys.readouterr().err


def test_a_stopped_training_ends_the_demo_with_its_status(monkeypatch, tmp_path):
    from mmclr.demo import training
    from mmclr.train import trainer

    monkeypatch.setattr(trainer, "train_until_stopped", lambda run: (tmp_path, "SIGTERM"))
    with pytest.raises(SystemExit) as end:
        training.train(None)
    assert end.value.code == 143
    monkeypatch.setattr(trainer, "train_until_stopped", lambda run: (tmp_path, ""))
    assert training.train(None) == tmp_path
