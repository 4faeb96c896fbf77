"""What all tests share: no network, and one thread, so that nothing depends on how many cores there are."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings  # noqa: E402

settings.register_profile("mmclr", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("mmclr")
