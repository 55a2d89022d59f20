"""Where things are and how large: read once from the environment, handed down as a value.

The only file that looks at the environment.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """Paths of a workplace. Every one can be set by `BRANCHPOINT_<NAME>`.

    store:     tables and request ledger: a folder, or a URL that fsspec opens.
    policies:  trained policies, one folder each.
    release:   staged releases, one folder each.
    suites:    one's own suites, one TOML file each.
    """

    store: Path | str = Path("store")
    policies: Path = Path("policies")
    release: Path = Path("release")
    suites: Path = Path("suites")

    @classmethod
    def from_environment(cls) -> Settings:
        """Settings from the environment, defaults relative to the working directory."""
        found = {name: os.environ.get(f"BRANCHPOINT_{name.upper()}") for name in cls.__slots__}
        return cls(**{name: place_named(value) for name, value in found.items() if value})


def place_named(value: str) -> Path | str:
    """A folder of this machine; a URL as it is."""
    return value if "://" in value else Path(value)


def quiet_engines() -> None:
    """Ask the libraries below for one process, no telemetry and no chatter. Call before importing them."""
    for name, value in {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }.items():
        os.environ.setdefault(name, value)


def heed_interrupts() -> None:
    """Let Ctrl-C end a wait for another process or thread, which polars has the system take up again."""
    import polars  # noqa: F401 - its handler comes with the import

    signal.siginterrupt(signal.SIGINT, True)


def only_gpu(number: int) -> None:
    """Let this process see one GPU, numbered among those it could see. Call before anything asks CUDA."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    os.environ["CUDA_VISIBLE_DEVICES"] = seen.split(",")[number] if seen else str(number)
