"""What llama-server is told, out of settings."""

from __future__ import annotations

from typing import Any

import pytest

from llm_latency.plan.serving import flags
from llm_latency.plan.settings import Settings


def pairs(words: list[str]) -> dict[str, str | None]:
    """Return flags with their values; ``None`` where one has none."""
    told: dict[str, str | None] = {}
    for word, after in zip(words, [*words[1:], "-"], strict=True):
        if word.startswith("-"):
            told[word] = None if after.startswith("-") else after
    return told


def test_what_holds_without_being_asked_is_llama_cpp_pythons() -> None:
    told = pairs(flags(Settings(n_threads=2)))
    assert told == {
        "-c": "2048", "-b": "512", "-ub": "512", "-t": "2", "-tb": "2", "-ngl": "all",
        "-fa": "off", "-ctk": "f16", "-ctv": "f16", "-lm": "mmap", "--swa-full": None, "-np": "1",
        "--fit": "off", "--cache-ram": "0", "--no-cache-idle-slots": None,
        "--ctx-checkpoints": "0", "--no-context-shift": None, "--no-warmup": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"n_ctx": 4096, "n_batch": 256}, {"-c": "4096", "-b": "256", "-ub": "256"}),
        ({"n_ubatch": 128}, {"-ub": "128"}),
        ({"n_threads_batch": 3}, {"-t": "1", "-tb": "3"}),
        ({"n_gpu_layers": 0}, {"-ngl": "0", "-dev": "none"}),
        ({"n_gpu_layers": 7}, {"-ngl": "7", "-dev": "missing"}),
        ({"flash_attn": True, "type_k": "q8_0", "type_v": "q4_0"},
         {"-fa": "on", "-ctk": "q8_0", "-ctv": "q4_0"}),
        ({"flash_attn": "auto"}, {"-fa": "auto"}),
        ({"use_mmap": False}, {"-lm": "none"}),
        ({"use_mlock": True}, {"-lm": "mmap+mlock"}),
        ({"offload_kqv": False, "op_offload": False},
         {"--no-kv-offload": None, "--no-op-offload": None}),
        ({"swa_full": False}, {"--swa-full": "missing"}),
        ({"n_cpu_moe": 4}, {"-ncmoe": "4"}),
    ],
)  # fmt: skip
def test_each_setting_is_told(given: dict[str, Any], expected: dict[str, str | None]) -> None:
    told = pairs(flags(Settings(**{"n_threads": 1} | given)))
    assert {flag: told.get(flag, "missing") for flag in expected} == expected


def test_every_setting_changes_the_line() -> None:
    usual = Settings(n_threads=2)
    others = {
        "n_ctx": 512, "n_batch": 64, "n_ubatch": 32, "n_gpu_layers": 1, "n_threads": 3,
        "n_threads_batch": 3, "use_mmap": False, "use_mlock": True, "flash_attn": True,
        "offload_kqv": False, "type_k": "q8_0", "type_v": "f32", "swa_full": False,
        "op_offload": False, "n_cpu_moe": 1,
    }  # fmt: skip
    assert set(others) == set(Settings.model_fields)
    for name, value in others.items():
        assert flags(usual.model_copy(update={name: value})) != flags(usual), name
