"""A captioner as a transformers model: it generates, with a cache of keys and values.

The weights have the names that they have in training. Exports hold a copy of this file, for machines without mmclr, so
it needs nothing but torch and transformers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, EncoderDecoderCache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

ACTIVATIONS = {"gelu": F.gelu, "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x)}


class CaptionerConfig(PreTrainedConfig):
    """`image`, `text` and `captioner` are the trees of a model's config in mmclr."""

    model_type = "mmclr_captioner"

    def __init__(self, image: Any = None, text: Any = None, captioner: Any = None, **rest: Any) -> None:
        self.image, self.text, self.captioner = image or {}, text or {}, captioner or {}
        if text:
            rest.update(vocab_size=text["vocab"], hidden_size=text["width"], num_attention_heads=text["heads"])
            rest["num_hidden_layers"] = text["layers"] + self.captioner["layers"]
            ids = {f"{name}_token_id": text[name] for name in ("bos", "eos", "pad")}
            rest.update(ids, decoder_start_token_id=text["bos"], max_position_embeddings=text["context"])
        super().__init__(**{**rest, "is_encoder_decoder": True, "tie_word_embeddings": False})


class Attention(nn.Module):
    """From tokens to themselves, or to `seen`; `number` is the layer's in the cache."""

    def __init__(self, width: int, heads: int, number: int, seen: int | None = None, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.number, self.crosses, self.causal = heads, number, seen is not None, causal
        self.q_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.k_proj, self.v_proj = (nn.Linear(width if seen is None else seen, width) for _ in "kv")

    def forward(self, x: Tensor, seen: Tensor | None = None, cache: EncoderDecoderCache | None = None) -> Tensor:
        """[n, L, width] -> [n, L, width]."""
        q = self._split(self.q_proj(x))
        k, v = self._seen(seen, cache) if self.crosses else self._past(x, cache)
        mask, causal = None, self.causal and q.shape[2] > 1
        if causal and q.shape[2] != k.shape[2]:  # several tokens behind others: each sees those up to itself
            mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=x.device).tril(k.shape[2] - q.shape[2])
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal and mask is None)
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def _past(self, x: Tensor, cache: EncoderDecoderCache | None) -> tuple[Tensor, Tensor]:
        k, v = self._split(self.k_proj(x)), self._split(self.v_proj(x))
        return (k, v) if cache is None else cache.self_attention_cache.update(k, v, self.number)

    def _seen(self, seen: Tensor | None, cache: EncoderDecoderCache | None) -> tuple[Tensor, Tensor]:
        """Return keys and values of the image: computed once, then taken from the cache."""
        if cache is not None and cache.is_updated.get(self.number):
            layer: Any = cache.cross_attention_cache.layers[self.number]
            return layer.keys, layer.values
        k, v = self._split(self.k_proj(seen)), self._split(self.v_proj(seen))
        if cache is None:
            return k, v
        cache.is_updated[self.number] = True
        return cache.cross_attention_cache.update(k, v, self.number)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class MLP(nn.Module):
    """fc1, activation, fc2."""

    def __init__(self, width: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return self.fc2(self.activation(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm block of a tower with this config."""

    def __init__(self, c: dict[str, Any], number: int, causal: bool) -> None:
        super().__init__()
        self.layer_norm1, self.layer_norm2 = (nn.LayerNorm(c["width"], c["eps"]) for _ in range(2))
        self.self_attn = Attention(c["width"], c["heads"], number, causal=causal)
        self.mlp = MLP(c["width"], c["mlp"], c["activation"])

    def forward(self, x: Tensor, cache: EncoderDecoderCache | None = None) -> Tensor:
        """[n, L, width] -> [n, L, width]."""
        x = x + self.self_attn(self.layer_norm1(x), cache=cache)
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    """A stack of blocks."""

    def __init__(self, c: dict[str, Any], causal: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(c, number, causal) for number in range(c["layers"]))

    def forward(self, x: Tensor, cache: EncoderDecoderCache | None = None) -> Tensor:
        """[n, L, width] -> [n, L, width]."""
        for layer in self.layers:
            x = layer(x, cache)
        return x


class VisionEmbeddings(nn.Module):
    """A class token, then patches, with their positions."""

    def __init__(self, c: dict[str, Any]) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(c.get("channels", 3), c["width"], c["patch"], c["patch"], bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(c["width"]))
        self.position_embedding = nn.Embedding((c["size"] // c["patch"]) ** 2 + 1, c["width"])

    def forward(self, pixels: Tensor) -> Tensor:
        """[b, C, H, W] -> [b, 1 + P, width]."""
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(pixels), 1, -1)
        return torch.cat([first, patches], 1) + self.position_embedding.weight


class VisionTower(nn.Module):
    """CLIP's vision transformer, all tokens."""

    def __init__(self, c: dict[str, Any]) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(c)
        self.pre_layrnorm = nn.LayerNorm(c["width"], c["eps"])
        self.encoder = Encoder(c, causal=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """[b, C, H, W] -> [b, 1 + P, width]."""
        return self.encoder(self.pre_layrnorm(self.embeddings(pixels)))


class TextEmbeddings(nn.Module):
    """Tokens and learnt positions."""

    def __init__(self, c: dict[str, Any]) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(c["vocab"], c["width"])
        self.position_embedding = nn.Embedding(c["context"], c["width"])

    def forward(self, ids: Tensor, past: int) -> Tensor:
        """Ids [n, L] behind `past` others -> [n, L, width]."""
        return self.token_embedding(ids) + self.position_embedding.weight[past : past + ids.shape[1]]


class TextTower(nn.Module):
    """CLIP's causal text transformer, all tokens."""

    def __init__(self, c: dict[str, Any]) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(c)
        self.encoder = Encoder(c, causal=True)
        self.final_layer_norm = nn.LayerNorm(c["width"], c["eps"])

    def forward(self, ids: Tensor, past: int, cache: EncoderDecoderCache | None) -> Tensor:
        """Ids [n, L] behind `past` others -> [n, L, width]."""
        return self.final_layer_norm(self.encoder(self.embeddings(ids, past), cache))


class Memory(nn.Module):
    """The decoder's view of an image: its tokens, or what learnt queries take from them."""

    def __init__(self, image: dict[str, Any], text: dict[str, Any], queries: int) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(image["width"], text["eps"])
        self.queries = nn.Parameter(torch.zeros(queries, text["width"])) if queries else None
        if queries:
            self.attention = Attention(text["width"], text["heads"], 0, seen=image["width"])
            self.final_layer_norm = nn.LayerNorm(text["width"], text["eps"])

    def forward(self, tokens: Tensor) -> Tensor:
        """[b, 1 + P, width of the image] -> the same, or [b, queries, width of the text]."""
        tokens = self.layer_norm(tokens)
        if self.queries is None:
            return tokens
        return self.final_layer_norm(self.attention(self.queries.expand(len(tokens), -1, -1), tokens))


class Layer(nn.Module):
    """A causal block, then attention to the image and a second MLP."""

    def __init__(self, text: dict[str, Any], seen: int, number: int) -> None:
        super().__init__()
        self.block = Block(text, number, causal=True)
        self.layer_norm1, self.layer_norm2 = (nn.LayerNorm(text["width"], text["eps"]) for _ in range(2))
        self.cross_attn = Attention(text["width"], text["heads"], number, seen=seen)
        self.mlp = MLP(text["width"], text["mlp"], text["activation"])

    def forward(self, x: Tensor, seen: Tensor, cache: EncoderDecoderCache | None) -> Tensor:
        """[n, L, width] -> [n, L, width]."""
        x = self.block(x, cache)
        x = x + self.cross_attn(self.layer_norm1(x), seen, cache)
        return x + self.mlp(self.layer_norm2(x))


class Captioner(nn.Module):
    """The decoder on top of the text tower."""

    def __init__(self, image: dict[str, Any], text: dict[str, Any], c: dict[str, Any]) -> None:
        super().__init__()
        seen = text["width"] if c["queries"] else image["width"]
        self.memory = Memory(image, text, c["queries"])
        self.layers = nn.ModuleList(Layer(text, seen, text["layers"] + number) for number in range(c["layers"]))
        self.final_layer_norm = nn.LayerNorm(text["width"], text["eps"])
        self.words = None if c["tied"] else nn.Embedding(text["vocab"], text["width"])

    def forward(self, x: Tensor, seen: Tensor, cache: EncoderDecoderCache | None) -> Tensor:
        """States of the text [n, L, width] -> states from which the next tokens are told [n, L, width]."""
        for layer in self.layers:
            x = layer(x, seen, cache)
        return self.final_layer_norm(x)


class See:
    """The encoder, as generate() calls it: pixels to what the decoder sees."""

    main_input_name = "pixel_values"

    def __init__(self, model: CaptionerModel) -> None:
        self.model = model

    def forward(self, pixel_values: Any) -> BaseModelOutput:
        """[b, C, H, W] -> [b, 1 + P, width], or [b, queries, width]."""
        tokens = self.model.vision_model(pixel_values.to(self.model.dtype))
        return BaseModelOutput(last_hidden_state=self.model.captioner.memory(tokens))

    def __call__(self, pixel_values: Any, **_: Any) -> BaseModelOutput:
        return self.forward(pixel_values)


class CaptionerModel(PreTrainedModel, GenerationMixin):
    """model.generate(pixel_values=...) writes captions; forward gives the logits of the tokens that follow."""

    config_class = CaptionerConfig
    main_input_name = "pixel_values"

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__(config)
        self.vision_model = VisionTower(config.image)
        self.text_model = TextTower(config.text)
        self.captioner = Captioner(config.image, config.text, config.captioner)
        self.post_init()

    def get_encoder(self, modality: str | None = None) -> See:
        """Return what makes encoder_outputs of pixel_values."""
        return See(self)

    def get_input_embeddings(self) -> nn.Module:
        """Return the vectors of the tokens."""
        return self.text_model.embeddings.token_embedding

    def forward(
        self,
        pixel_values: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
    ) -> Seq2SeqLMOutput:
        """Pixels [b, C, H, W] (or what the encoder made of them) and ids [b, L] -> logits [b, L, vocabulary].

        `logits_to_keep` is how many of the last tokens are wanted, 0 all. Ids stand on the left, without padding.
        """
        seen = (encoder_outputs or self.get_encoder()(pixel_values)).last_hidden_state
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        x = self.text_model(decoder_input_ids, past, past_key_values)
        x = self.captioner(x, seen, past_key_values)[:, -logits_to_keep:]
        words = self.captioner.words or self.text_model.embeddings.token_embedding
        return Seq2SeqLMOutput(
            logits=F.linear(x, words.weight), past_key_values=past_key_values, encoder_last_hidden_state=seen
        )


if __name__ == "mmclr.models.captioning.transformers_model":  # and not a copy of it
    AutoConfig.register(CaptionerConfig.model_type, CaptionerConfig)
    AutoModel.register(CaptionerConfig, CaptionerModel)
