"""Model folders of strangers: a small sound one, ways to spoil it, and a child in which a spoilt one is opened."""

import json
import random
import resource
import signal
import struct
import sys
import time
import traceback
import warnings
from pathlib import Path

from mmclr.errors import UserError

NUMBERS = [0, -1, 1, 2**31, 2**62, 10**9, 1e300, float("nan"), float("inf"), True, None, "", "x" * 1000, [], {}, [[1]]]
FILES = ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
SECONDS, BYTES = 10, 1 << 30


def header(path):
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def write_header(path, tree, rest):
    text = json.dumps(tree).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + rest)


def places(tree):
    """Return (container, key) of every value in a tree."""
    found, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in items:
            found.append((node, key))
            waiting.append(value)
    return found


def spoil(folder, seed):
    """Change one or two things in a folder, by a seed."""
    draw = random.Random(seed)
    for _ in range(draw.choice((1, 1, 2))):
        path = folder / draw.choice([name for name in FILES if (folder / name).is_file()])
        if draw.random() < 0.25:
            _spoil_bytes(path, draw)
        elif path.suffix == ".safetensors":
            try:
                tree, rest = header(path)
            except (ValueError, struct.error):
                continue
            _spoil_value(tree, draw)
            write_header(path, tree, rest)
        else:
            try:
                tree = json.loads(path.read_text())
            except ValueError:
                continue
            _spoil_value(tree, draw)
            path.write_text(json.dumps(tree))
    return folder


def _spoil_bytes(path, draw):
    data = bytearray(path.read_bytes())
    at = draw.randrange(max(len(data), 1))
    how = draw.choice(("flip", "cut", "zero", "double", "empty"))
    if how == "flip" and data:
        data[at] ^= 1 << draw.randrange(8)
    elif how == "zero":
        data[at : at + 64] = bytes(len(data[at : at + 64]))
    path.write_bytes({"cut": data[:at], "double": data * 2, "empty": b""}.get(how, data))


def _spoil_value(tree, draw):
    top = [(tree, key) for key in tree] if isinstance(tree, dict) else []
    found = draw.choice([top, places(tree)] if top else [places(tree)])
    if not found:
        return
    node, key = draw.choice(found)
    how = draw.random()
    if how < 0.2 and isinstance(node, dict):
        del node[key]
    elif how < 0.3 and isinstance(node, dict):
        node[f"{key}_2"] = node[key]
    else:
        node[key] = draw.choice(NUMBERS)


def opened(folder):
    """Do with a model folder what commands do; return nothing, or raise."""
    import numpy as np
    import torch

    from mmclr.config import check
    from mmclr.encoder import Encoder
    from mmclr.models.config import ModelConfig
    from mmclr.models.formats import find
    from mmclr.models.resolve import resolve

    encoder = Encoder.load(folder)
    encoder.encode_text(["a photo of a cat", "", "a" * 2000])
    encoder.encode_image([np.zeros((16, 16, 3), np.uint8)])
    find.read_config(find.find(folder))
    resolve(check(ModelConfig, {"preset": str(folder)}))
    torch.manual_seed(0)


def outcome(folder):
    """Return what came of a folder: "opened", a sentence, or what is wrong with how it was refused."""
    begin, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.alarm(6 * SECONDS)
    try:
        opened(folder)
        said = "opened"
    except UserError as error:
        said = f"refused: {str(error)[:300]}"
    except BaseException as error:  # what the test is for
        last = traceback.extract_tb(error.__traceback__)[-1]
        said = f"WRONG {type(error).__name__}: {str(error)[:200]} in {last.filename}:{last.lineno}"
    signal.alarm(0)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    if time.process_time() - begin > SECONDS:  # of this process: others may be busy; what hangs is ended by the alarm
        said = f"WRONG took {time.process_time() - begin:.0f} s; {said}"
    if grown > BYTES:
        said = f"WRONG took {grown >> 20} MiB; {said}"
    return said


def main(folders):
    """Print the outcome of each folder."""
    warnings.simplefilter("ignore")
    for folder in folders:
        print(f"{Path(folder).name}\t{' '.join(outcome(Path(folder)).split())}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
