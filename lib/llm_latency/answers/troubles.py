"""What every answer says first, or last: nothing measured, trials failed, the machine disturbed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_latency.answers.verdict import _all_failed as all_failed
from llm_latency.answers.verdict import _disturbed as disturbed
from llm_latency.answers.verdict import _failed as failed
from llm_latency.wording import escape

__all__ = ["NOTHING", "all_failed", "disturbed", "failed", "model_name"]

NOTHING = "**Nothing has been measured yet.** Run the plan to get an answer."


def model_name(info: Mapping[str, Any]) -> str:
    """Return the model's name as a page may show it; ``the model`` where it is not known."""
    return escape((info.get("model") or {}).get("name") or "the model")
