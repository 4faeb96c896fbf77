"""Keys and values of overrides, as people write them and worse."""

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

TEXTS = [
    "001",
    "[/x]",
    "run #2",
    "#1",
    "2026-11-28",
    "1:30",
    "no",
    "yes",
    "1e5",
    "true",
    "{0..9}",
    "*.tar",
    "{a,b}.tar",
    "a: b",
    "&x",
    "!tag",
    "%",
    "@x",
    "`x`",
    "it's",
    "- a",
    "? b",
    "| c",
    "a, b",
    "[",
    "{",
    "é",
    "x" * 200,
]


def _joined(texts):
    return f"[{', '.join(texts)}]"


KEYS = [
    "name",
    "out",
    "seed",
    "steps",
    "epochs",
    "data",
    "data.train",
    "data.batch",
    "data.caption",
    "data.augment.flip",
    "data.background",
    "model",
    "model.preset",
    "model.image",
    "model.image.size",
    "model.image.foreign.source",
    "optim",
    "optim.betas",
    "optim.groups",
    "optim.groups.a.lr",
    "objectives",
    "objectives.clip",
    "objectives.clip.weight",
    "objectives.x.use",
    "lock.image",
    "ema",
    "evaluate",
    "evaluate.e.data",
    "save.best",
    "average.decay",
    "nope",
    "a.b.c",
    "init.parts",
    "patch_dropout",
    "precision",
    "trackers",
    "teacher",
    "resume",
    "data.train.web.urls",
]


VALUES = st.one_of(
    st.text(max_size=20),
    st.sampled_from(TEXTS),
    st.integers().map(str),
    st.floats().map(str),
    st.recursive(
        st.sampled_from(["1", "a", "null", "'x'", "*", "2026-01-01", "{}", "[]"]),
        lambda s: st.one_of(s.map("[{}]".format), s.map("{{a: {}}}".format), st.lists(s).map(_joined)),
        max_leaves=6,
    ),
)


def drawn(number, count):
    """Return `count` (key, value) pairs, the same for one seed."""
    found = []

    @seed(number)
    @settings(max_examples=2 * count, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.sampled_from(KEYS) | st.text(max_size=12), VALUES)
    def collect(key, value):
        found.append((key, value))

    collect()
    return found[:count]
