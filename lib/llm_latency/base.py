"""What every shape is made of: data that never changes, and refuses names it does not know."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """What is kept: it reads values as JSON holds them."""

    # Built when first used: a measured process starts sooner, and uses few of them.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Frozen(Part):
    """What is asked for: strictly typed, so that no value is taken for another."""

    model_config = ConfigDict(strict=True)
