"""Evaluation reads every sample in order, and its pixels are open_clip's to the bit."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mmclr.data.pixels.plain import plain
from mmclr.data.samples.reader import normalise, read_all
from tests.data.made import pair, picture, write_tar

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(97, 130), (130, 97), (64, 64), (33, 64), (64, 65), (20, 31), (500, 63), (101, 101)])
def test_pixels_equal_open_clip(size, resample):
    from open_clip.transform import PreprocessCfg, image_transform_v2

    image = Image.fromarray(np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), dtype=np.uint8))
    theirs = image_transform_v2(PreprocessCfg(size=64, mean=MEAN, std=STD, interpolation=resample), is_train=False)
    ours = torch.from_numpy(np.asarray(plain(image, 64, resample)).copy()).permute(2, 0, 1)
    assert torch.equal(normalise(ours, MEAN, STD), theirs(image))


def test_all_samples_in_order(shards):
    reader = read_all(shards, 16, batch=10, label="json:number")
    batches = list(reader)
    assert len(reader) == 53
    assert [len(b.keys) for b in batches] == [10] * 5 + [3]
    assert torch.cat([b.index for b in batches]).tolist() == list(range(53))
    assert torch.cat([b.label for b in batches]).tolist() == list(range(53))
    assert [c for b in batches for c in b.captions] == [[f"image number {n}"] for n in range(53)]
    assert [m["tags"][0] for b in batches for m in b.metadata] == [f"a{n}" for n in range(53)]
    again = list(read_all(shards, 16, batch=10, workers=2))
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(batches, again))


def test_ranks_share_the_batches(shards):
    parts = [list(read_all(shards, 16, batch=4, rank=rank, world=3)) for rank in range(3)]
    index = [i for part in parts for b in part for i in b.index.tolist()]
    assert sorted(index) == list(range(53))


def test_several_captions_and_none(shards, tmp_path):
    both = next(iter(read_all(shards, 16, caption={"txt": 1, "json:tags": 1})))
    assert both.captions[2] == ["image number 2", "a2", "b2"]
    members = [("0.png", picture(0)), ("0.txt", b"one\ntwo\n"), ("1.png", picture(1))]
    path = str(write_tar(tmp_path / "a.tar", members))
    lines = list(read_all(path, 16, split="lines"))
    assert lines[0].captions == [["one", "two"]]
    assert len(list(read_all(path, 16, caption=None))[0].keys) == 2


def test_faults_are_told(tmp_path):
    members = [(f"{n}.{e}", data) for n in range(5) for e, data in pair(n).items()]
    members[6] = (members[6][0], b"no picture")
    members[11] = (members[11][0], b"{")
    reader = read_all(str(write_tar(tmp_path / "a.tar", members)), 16)
    batch = next(iter(reader))
    assert batch.keys == ["0", "1", "4"]
    assert [(fault.key, fault.reason) for fault in batch.faults] == [("2", "bad_image"), ("3", "bad_text")]
    assert reader.ledger.counts == {"bad_image": 1, "bad_text": 1}
    assert json.dumps(batch.metadata[0])
