"""One grammar of sizes for every parameter that takes one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm_latency.errors import ParameterError
from llm_latency.model import names
from llm_latency.plan.sizes import limit_bytes, share, size_bytes

MIB = 2**20


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (512, 512),
        ("512M", 512 * MIB),
        ("64 MiB", 64 * MIB),
        ("64mib", 64 * MIB),
        ("1.5 GiB", 3 * 2**29),
        ("1,5 GiB", 3 * 2**29),
        ("64 MB", 64_000_000),
        ("110 %", 110 * MIB),
        ("+20 MiB", 120 * MIB),
    ],
)
def test_sizes_in_words(value: Any, expected: int) -> None:
    assert size_bytes("memory", value, lambda: 100 * MIB) == expected


@pytest.mark.parametrize("value", ["none", None, "None", "", " none "])
def test_no_limit(value: Any) -> None:
    assert limit_bytes("memory_limit", value) is None


@pytest.mark.parametrize("value", ["", "much", "6 GiBs", "-1", -1, True, [1], "110 %", "+1 GiB"])
def test_what_is_no_size_is_refused(value: Any) -> None:
    with pytest.raises(ParameterError, match=r"budget=.*is not a size; give bytes"):
        size_bytes("budget", value)


@pytest.mark.parametrize("value", ["1 MiB", 64])
def test_a_limit_too_small_for_any_process_is_refused(value: Any) -> None:
    with pytest.raises(ParameterError, match="16 MiB at least; give more, with its unit"):
        limit_bytes("memory_limit", value)


def test_a_share_of_the_file_needs_no_file(tmp_path: Path) -> None:
    half = size_bytes("memory", "50 %", lambda: names.file_bytes("synthetic:125m:q8_0"))
    assert half == pytest.approx(127.13 * MIB / 2, rel=0.01)
    file = tmp_path / "model.gguf"
    file.write_bytes(b"\0" * (20 * MIB))
    assert size_bytes("memory", "150%", lambda: names.file_bytes(str(file))) == 30 * MIB


@pytest.mark.parametrize(("value", "expected"), [("99 %", 0.99), ("99,5%", 0.995), ("0.9", 0.9)])
def test_a_share(value: object, expected: float) -> None:
    assert share("quality", value) == pytest.approx(expected)


@pytest.mark.parametrize("value", ["101 %", "much", -0.1, True, None, 99])
def test_what_is_no_share_is_refused(value: object) -> None:
    with pytest.raises(ParameterError, match="give a share"):
        share("quality", value)
