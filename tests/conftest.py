"""What all tests share: no network, and one thread, so that nothing depends on how many cores there are."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
