"""What a model is loaded with, in llama-cpp-python's own names and units."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from llm_latency.base import Frozen

KvType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
BLOCKWISE: frozenset[KvType] = frozenset({"q8_0", "q5_1", "q5_0", "q4_1", "q4_0"})
"""Number formats that hold several values with one scale."""

MAX_INT32 = 2**31 - 1
"""llama.cpp holds counts in 32-bit integers."""
PADDING = 256
"""llama.cpp rounds a context up to a multiple of this."""
MAX_LAYERS = 4096
"""More layers than any model has."""
UBATCH = 512
"""Most tokens that llama.cpp computes at once where nobody says."""

Count = Annotated[int, Field(ge=1, le=MAX_INT32)]


def padded(n_tokens: int) -> int:
    """Return the smallest context on llama.cpp's grid that holds so many tokens."""
    return -(-n_tokens // PADDING) * PADDING


class Conflict(NamedTuple):
    """Settings that do not go together: which, and why not and what to give instead."""

    what: str
    why: str


class Settings(Frozen):
    """What a model is loaded with: llama-cpp-python's own names and units.

    Defaults are llama-cpp-python's, save three that make its defaults false friends: ``n_ctx`` is
    2048 (512 there), ``n_gpu_layers`` -1 (all layers on the GPU if there is one; 0 there), and
    ``None`` for the threads means the CPUs that this process may really use (half of all, or all,
    there).
    """

    n_ctx: Count = Field(
        2048, description=f"Tokens the context can hold; padded to {PADDING} by llama.cpp"
    )
    n_batch: Count = Field(512, description="Most prompt tokens handed to llama.cpp in one call")
    n_ubatch: Count | None = Field(
        None,
        description=f"Most tokens computed at once; None: the engine's own, min(n_batch, {UBATCH})",
    )
    n_gpu_layers: Annotated[int, Field(ge=-1, le=MAX_INT32)] = Field(
        -1, description="Layers kept on the GPU; -1, or more than there are: all; 0: none"
    )
    n_threads: Count | None = Field(None, description="Threads for decode; None: usable CPUs")
    n_threads_batch: Count | None = Field(
        None, description="Threads for prefill; None: as n_threads"
    )
    use_mmap: bool = Field(True, description="Map the model file instead of reading it")
    use_mlock: bool = Field(False, description="Lock the weights in RAM")
    flash_attn: bool | Literal["auto"] = Field(
        False, description="Use flash attention: true, false, or auto, where the device can"
    )
    offload_kqv: bool = Field(True, description="Keep the KV cache on the GPU")
    type_k: KvType = Field("f16", description="Number format of the K cache")
    type_v: KvType = Field("f16", description="Number format of the V cache")
    swa_full: bool | None = Field(
        None,
        description="Keep the whole context in layers with a sliding window; "
        "None: llama-cpp-python's own, true",
    )
    op_offload: bool | None = Field(
        None,
        description="Let a GPU compute batches with weights that are in RAM; "
        "None: llama-cpp-python's own, true",
    )
    n_cpu_moe: Annotated[int, Field(ge=1, le=MAX_LAYERS)] | None = Field(
        None, description="First layers whose experts stay on the CPU; None: none"
    )

    @property
    def conflict(self) -> Conflict | None:
        """What llama.cpp would cut down or refuse, whatever the model; ``None``: nothing.

        No validator, since what was measured with such settings must stay readable. An ``n_batch``
        that nobody gave goes with any context.
        """
        given = {name: getattr(self, name) or 0 for name in self.model_fields_set}
        for name, holder in (("n_ubatch", "n_ctx"), ("n_ubatch", "n_batch"), ("n_batch", "n_ctx")):
            if (size := given.get(name, 0)) > (most := getattr(self, holder)):
                return Conflict(
                    f"{name}={size} beside {holder}={most}",
                    f"llama.cpp cuts it down; give {name}={most} or less, or a larger {holder}",
                )
        if self.type_v in BLOCKWISE and not self.flash_attn:
            return Conflict(
                f"type_v={self.type_v!r} without flash attention",
                "llama.cpp quantises V only with it; give flash_attn=true, or type_v='f16'",
            )
        return None
