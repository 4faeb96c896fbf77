"""Captions to token ids, by one transformers fast tokenizer that is saved with the model and exported as it is.

All cleaning (quotes, HTML entities, full-width forms, spaces, case) is written into the tokenizer's own normalizer,
so what the exported tokenizer does to a string is what training did. Mojibake is left alone: no rule of a
normalizer can mend it; clean it when the shards are packed.
"""

from __future__ import annotations

import copy
import gzip
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmclr.data.samples import tokenizer_check
from mmclr.errors import UserError

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forked loader workers must not inherit its threads

BYTES = 512  # tokens that stand for single bytes: inside a word, and at its end
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
# CLIP's own: contractions, runs of letters, single digits, runs of anything else.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model")  # any of these is a tokenizer
CLEANING = {
    "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'", "&apos;": "'", "&nbsp;": " ", "&amp;": "&",
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"',
}  # fmt: skip
LONG = 64  # characters for each token of the context: of longer texts the beginning is tried first
LEARNED = 10_000  # characters of a caption that a vocabulary is learned from


class Tokenizer:
    """Turns strings into ids that end with EOS (and begin with BOS, if it has one). Longer texts are cut before EOS.

    Safe in threads: a checkpoint may save it, and an evaluation use it, while the loader's thread encodes. Nothing of
    it changes once it is made, and `encode` has a tokenizer of its own, so what others do to `backend` (transformers
    sets truncation and padding in every call) changes no ids.
    """

    def __init__(self, backend: Any, context: int) -> None:
        self.backend = backend
        self.context = context
        self.vocab_size: int = len(backend)
        self.bos_id = _first(backend.bos_token_id, backend.cls_token_id, -1)  # -1: there is none
        self.eos_id = _first(backend.eos_token_id, backend.sep_token_id, -1)
        self.pad_id = _first(backend.pad_token_id, self.eos_id)
        backend.model_max_length = context
        backend.backend_tokenizer.no_padding()
        backend.backend_tokenizer.no_truncation()
        self._encoder = copy.deepcopy(backend.backend_tokenizer)
        self._encoder.enable_truncation(context)
        for encoder in (backend.backend_tokenizer, self._encoder):
            encoder.encode_special_tokens = True  # "<|endoftext|>" inside a caption is text, not a token
        backend.split_special_tokens = backend.init_kwargs["split_special_tokens"] = True  # also where it is saved
        if self._encoder.encode("a").ids[-1:] != [self.eos_id]:
            raise UserError(
                f"{backend.name_or_path}: its texts do not end with an end-of-text token, which towers need"
            )

    @classmethod
    def load(cls, source: str | Path, context: int | None = None) -> Tokenizer:
        """Open `source`: "clip" for CLIP's vocabulary (offline), a folder with a tokenizer, or a name on the Hub.

        An open_clip folder without one of its own has CLIP's.
        """
        if str(source) == "clip":
            return cls(_wrap(_clip_vocabulary(), context or 77), context or 77)
        config = Path(source) / "open_clip_config.json"
        if config.is_file() and not _has_tokenizer(Path(source)):
            text = json.loads(config.read_text())["model_cfg"]["text_cfg"]
            name, context = text.get("hf_tokenizer_name") or "clip", context or text.get("context_length", 77)
            return cls.load(name, context)
        backend = _open(source)
        return cls(backend, context or min(int(backend.model_max_length), 512))

    @classmethod
    def train(cls, captions: Iterable[str], size: int, context: int = 77) -> Tokenizer:
        """Learn a byte-level BPE of `size` tokens from captions, in the form of CLIP's tokenizer.

        The first 512 tokens are the bytes, inside and at the end of a word, so no text is unknown.
        """
        from tokenizers import models, pre_tokenizers, trainers

        if size < BYTES + 2:
            raise UserError(f"a tokenizer of {size} tokens is too small: {BYTES} stand for bytes, so ask for more")
        tokenizer = _pipeline(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>"))
        trainer = trainers.BpeTrainer(
            vocab_size=size + BYTES,  # the alphabet may take up to BYTES of these; the merges are cut below
            min_frequency=2,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            end_of_word_suffix="</w>",
            show_progress=False,
        )
        tokenizer.train_from_iterator((caption[:LEARNED] for caption in captions), trainer)
        merges = [(a, b) for a, b in json.loads(tokenizer.to_str())["model"]["merges"]]
        return cls(_wrap(_bpe(merges[: size - BYTES - 2]), context), context)

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return ids [n, L], padded on the right to the longest, and lengths [n] with BOS and EOS counted."""
        return self.pad(self.encode(texts))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, unpadded. Of a long text as much is looked at as fills the context.

        Raises UserError for what is not text, half a character (a lone surrogate) included.
        """
        texts = list(texts)
        most = LONG * self.context
        try:
            found = [encoding.ids for encoding in self._encoder.encode_batch([_begin(text, most) for text in texts])]
        except (TypeError, UnicodeEncodeError):
            raise UserError(_no_text(texts)) from None
        for at, text in enumerate(texts):
            size = most
            while len(found[at]) < self.context and size < len(text):  # it begins with thousands of spaces
                size *= 4
                found[at] = self._encoder.encode(_begin(text, size)).ids
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens left out; spaces before punctuation, which no id tells of, go."""
        return re.sub(r" (?=[,.:;!?)%]|'\w{1,2}\b)", "", self.backend.decode(ids, skip_special_tokens=True).strip())

    def pad(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return rows of ids as one tensor [n, L] and their lengths [n]."""
        lengths = np.array([len(row) for row in rows], np.int64)
        ids = np.full((len(rows), int(lengths.max(initial=0))), self.pad_id, np.int64)
        ids[np.arange(ids.shape[1]) < lengths[:, None]] = [token for row in rows for token in row]
        return torch.from_numpy(ids), torch.from_numpy(lengths)

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, as transformers reads them."""
        self.backend.save_pretrained(str(folder))


def _begin(text: str, size: int) -> str:
    """Return the first `size` characters of a text, without the last word of them, which may go on."""
    if len(text) <= size:
        return text
    words = text[:size].rsplit(None, 1)
    return words[0] if words and len(words[0]) > size // 2 else text[:size]


def _no_text(texts: Sequence[Any]) -> str:
    for at, text in enumerate(texts):
        if not isinstance(text, str):
            return f"text {at} is a {type(text).__name__}, not a string"
        if not text.isascii() and text != text.encode("utf-8", "replace").decode():
            return f"text {at} ({text[:40]!r}) has half a character (a lone surrogate)"
    return "a text cannot be encoded"


def _open(source: str | Path) -> Any:
    """Return the transformers tokenizer of a folder or name."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.utils import logging

    path, level = Path(source), logging.get_verbosity()
    if path.is_dir() and not _has_tokenizer(path):
        raise UserError(
            f"{path}: no tokenizer.json there; write tokenizer: clip, or make one with `mmclr data tokenizer`"
        )
    if path.is_dir():
        tokenizer_check.check(path)
    try:
        logging.set_verbosity_error()  # of a model whose type it does not know it warns, but reads the tokenizer
        backend = AutoTokenizer.from_pretrained(
            str(source), local_files_only=path.is_dir(), trust_remote_code=False, padding_side="right"
        )
        if not path.is_dir():
            tokenizer_check.check_backend(str(source), backend)
    except UserError:
        raise
    except BaseException as error:  # the libraries raise all kinds, Rust's panic is no Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
            raise
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
        raise UserError(
            f"{source}: no tokenizer.json there, and none on the Hub ({why}); write tokenizer: clip, or make one with "
            f"`mmclr data tokenizer`"
        ) from None
    finally:
        logging.set_verbosity(level)
    if not isinstance(backend, PreTrainedTokenizerFast):
        raise UserError(f"{source}: its tokenizer has no fast form, which batches and exports need")
    return backend


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in VOCABULARIES)


def _first(*ids: int | None) -> int:
    return next(id_ for id_ in ids if id_ is not None)


def _pipeline(model: Any) -> Any:
    """Return a tokenizers.Tokenizer around a BPE model: cleaning, words, bytes, BOS and EOS."""
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    tokenizer = Backend(model)
    replacements = [normalizers.Replace(old, new) for old, new in CLEANING.items()]
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence(
        [*replacements, normalizers.NFKC(), spaces, normalizers.Strip(), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    last = decoders.Replace(Regex(r" \z"), "")  # decoders.Strip would panic at an empty text
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("</w>", " "), last])
    return tokenizer


def _wrap(tokenizer: Any, context: int) -> Any:
    """Return the transformers tokenizer around a trained tokenizers.Tokenizer, with BOS and EOS added to texts."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}", pair=None, special_tokens=[(BOS, bos), (EOS, eos)]
    )
    # Padding with EOS is harmless: pooling takes the first EOS and the mask is causal.
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=EOS,
        pad_token=EOS,
        model_max_length=context,
        split_special_tokens=True,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def _clip_vocabulary() -> Any:
    """Return CLIP's BPE (49,408 tokens), built from the vocabulary file inside open_clip's wheel."""
    from importlib.util import find_spec

    spec = find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise UserError("CLIP's vocabulary comes with open_clip, which is missing: pip install open_clip_torch")
    with gzip.open(Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    merges = [(a, b) for a, b in map(str.split, lines[1 : 49408 - BYTES - 2 + 1])]
    return _bpe(merges)


def _bpe(merges: list[tuple[str, str]]) -> Any:
    """Return the pipeline around a BPE in CLIP's order of ids: bytes, bytes at a word's end, merges, BOS, EOS."""
    from tokenizers import models

    letters = list(_byte_letters())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges), BOS, EOS]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return _pipeline(
        models.BPE(vocab=vocabulary, merges=merges, continuing_subword_prefix="", end_of_word_suffix="</w>")
    )


def _byte_letters() -> Iterable[str]:
    """Yield the letter that stands for each byte, in the order of CLIP's ids: printable bytes come first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    yield from map(chr, printable)
    yield from (chr(256 + i) for i in range(256 - len(printable)))
