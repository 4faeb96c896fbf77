"""`mmclr export transformers`: a folder that AutoModel and AutoProcessor load without mmclr."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from safetensors.torch import save_file

from mmclr.data.text import Tokenizer
from mmclr.errors import UserError
from mmclr.export import card, parity
from mmclr.models.transformers import preprocessor, to_transformers
from mmclr.models.two_tower import TwoTower


def main(argv: list[str]) -> None:
    """`mmclr export transformers CHECKPOINT OUT`."""
    parser = argparse.ArgumentParser(
        description="Write a checkpoint as a transformers folder: CLIPModel, CLIPProcessor, tokenizer, model card. The "
        "folder is loaded back and compared with the checkpoint before it gets its name.",
        epilog="example: mmclr export transformers runs/demo my-clip, and then in Python: "
        "AutoModel.from_pretrained('my-clip')",
    )
    parser.add_argument("checkpoint", help="a run's folder, or one of its checkpoints")
    parser.add_argument("out", help="folder to write; it must not exist, or be an earlier export")
    parser.add_argument(
        "--weights",
        choices=["auto", "average", "model"],
        default="auto",
        help="averaged weights, or those of the last step (auto: averaged if the run kept an average)",
    )
    args = parser.parse_args(argv)
    for name, value in export(Path(args.checkpoint), Path(args.out), args.weights).items():
        print(f"largest difference of {name.replace('_', ' ')}: {value:.3g}")
    print(f"{args.out}: a transformers CLIP folder that agrees with {args.checkpoint}")


def export(checkpoint: Path, out: Path, weights: str = "auto") -> dict[str, float]:
    """Write `out` and return the largest differences to the checkpoint, by name (see `parity`)."""
    from transformers import AutoModel, AutoProcessor, CLIPImageProcessor, CLIPProcessor

    source = find_weights(checkpoint, weights)
    model, tokenizer = TwoTower.load(source), Tokenizer.load(source)
    partial = _make_room(out)
    _write_model(model, partial)
    tokenizer.save(partial)
    pixels = {key: value for key, value in preprocessor(model.config.image).items() if key != "image_processor_type"}
    CLIPProcessor(CLIPImageProcessor(**pixels), Tokenizer.load(partial).backend).save_pretrained(partial)
    peer, processor = AutoModel.from_pretrained(partial), AutoProcessor.from_pretrained(partial)
    differences = parity.compare(model, tokenizer, peer, processor)
    parity.insist(differences, partial)
    card.write(partial, source, model, differences, out.name)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return differences


def find_weights(checkpoint: Path, weights: str = "auto") -> Path:
    """Return the folder of the wanted weights of a run or checkpoint."""
    newest = sorted(path.parent for path in (checkpoint / "checkpoints").glob("step-*/position.json"))
    step = newest[-1] if newest else checkpoint
    names = ["average", "model"] if weights == "auto" else [weights]
    found = [step / name for name in names if (step / name / "model.safetensors").is_file()]
    if not found:
        raise UserError(
            f"{checkpoint}: no {' or '.join(names)}/ with weights there; name a run's folder or a checkpoint"
        )
    return found[0]


def _write_model(model: TwoTower, folder: Path) -> None:
    """Write config.json and model.safetensors as CLIPModel has them; what it has no place for goes into the config."""
    tree = to_transformers(model.config)
    state = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    if (bias := state.pop("logit_bias", None)) is not None:
        tree["mmclr"]["logit_bias"] = bias.item()
    tree["dtype"] = str(next(iter(state.values())).dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(tree, indent=2))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _make_room(out: Path) -> Path:
    """Return an empty folder beside `out`, which must be new or an earlier export."""
    if out.exists() and not (out / "parity.json").is_file():
        raise UserError(f"{out} exists and is not an export of mmclr; name another folder")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial
