"""Workers of pytest-xdist share the cores: each computes on its part of them."""

import os

workers = os.environ.get("PYTEST_XDIST_WORKER_COUNT")
if workers is not None:  # before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))
