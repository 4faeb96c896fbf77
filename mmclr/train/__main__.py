"""`accelerate launch -m mmclr.train CONFIG [key=value ...]`: what `mmclr train` does, in every process."""

import sys

from mmclr.errors import run
from mmclr.heap import keep_freed_memory
from mmclr.train.run import main

keep_freed_memory()
sys.exit(run("mmclr train", main, sys.argv[1:]))
