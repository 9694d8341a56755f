"""`forks.py`, where the waits for an object store are short."""

import asyncio
import runpy
from pathlib import Path
from types import SimpleNamespace

import gcsfs.retry

from g2is_jax.runs import lock

lock.SETTLE_SECONDS, lock.STALE_SECONDS, lock.RENEW_SECONDS = 0.05, 0.5, 1.0
gcsfs.retry.asyncio = SimpleNamespace(sleep=lambda seconds: asyncio.sleep(0))
runpy.run_path(str(Path(__file__).parent / "forks.py"), run_name="__main__")
