"""What happens to a model between its random weights and the first step: filled, and partly locked."""

from __future__ import annotations

from mmclr.data.samples.text import Tokenizer
from mmclr.errors import UserError
from mmclr.models import freeze
from mmclr.models import init as start
from mmclr.models.clip.towers import ModelConfig
from mmclr.models.formats import find
from mmclr.models.two_tower import TwoTower
from mmclr.train.run import RunConfig


def begin(model: TwoTower, run: RunConfig, tokenizer: Tokenizer, anew: bool) -> None:
    """Give `model` its first weights (unless it goes on from a checkpoint), and lock what the run locks."""
    if anew:
        check_tokenizer(model.config, run, tokenizer)
        start.start(model, run.init)
    start.freeze_unread(model)
    freeze.lock(model, run.lock)


def check_tokenizer(config: ModelConfig, run: RunConfig, tokenizer: Tokenizer) -> None:
    """Refuse a trained text tower with another vocabulary than its own."""
    own = config.text.foreign
    source = run.init.source if run.init.parts != "image" else ""
    if not source and own is not None and own.trained:
        source = own.source
    if not source or source == run.tokenizer:
        return
    folder = find.find(source)
    if Tokenizer.load(folder).backend.get_vocab() != tokenizer.backend.get_vocab():
        raise UserError(
            f"tokenizer: {run.tokenizer} has another vocabulary than the text tower of {source}, which would read "
            f"nonsense; set tokenizer={folder}"
        )
