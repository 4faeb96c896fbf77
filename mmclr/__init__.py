"""mmclr: pretrain, evaluate and export image-text models on your own tar shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmclr.encoder import Encoder

from mmclr import moved

# In the source tree mmclr.eval and mmclr.data_tools lie beside this package, installed they lie in it.
if not Path(__file__).with_name("eval").exists():
    __path__.append(str(Path(__file__).parents[1]))
moved.install()

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(source: str | Path, *, weights: str = "auto", device: str = "auto", head: str = "") -> Encoder:
    """Open a trained model for `encode_image`, `encode_text` and `similarity`: see `mmclr.encoder.Encoder`.

    `source` is a run, checkpoint, export, transformers CLIP or SigLIP folder, open_clip folder, a folder of
    `mmclr export stages`, or a name on the Hub. `head` names an objective of a run: the model is then behind its head.
    """
    from mmclr.encoder import Encoder

    return Encoder.load(source, weights=weights, device=device, head=head)
