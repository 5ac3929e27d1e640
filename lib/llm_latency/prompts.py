"""The texts that ship with the lab, to be asked of any model."""

from __future__ import annotations

from importlib import resources


def passage() -> str:
    """Return the French and English passage that prompts of a given length are cut from."""
    return resources.files("llm_latency").joinpath("data/passage.txt").read_text(encoding="utf-8")
