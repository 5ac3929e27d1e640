"""The KV cache of a loaded model: emptied, primed with what is to be there, saved and restored.

llama.cpp holds the cache, and llama-cpp-python an account of the tokens in it. Whatever changes
one changes the other here, or the next prompt would be matched against tokens that are not there.
"""

from __future__ import annotations

import ctypes
import os
import pickle
from pathlib import Path

from llm_latency.engine.library import C, Llama
from llm_latency.engine.log import LlamaLog
from llm_latency.errors import EngineError


class KvCache:
    """What a model's context holds of the tokens that it has evaluated.

    Parameters
    ----------
    llama
        The loaded model.
    log
        Its log, for llama.cpp's own reasons.
    """

    def __init__(self, llama: Llama, log: LlamaLog) -> None:
        self._llama, self._log = llama, log
        self._ctx = llama.ctx
        self._memory = C.llama_get_memory(self._ctx)

    def forget(self) -> None:
        """Empty the KV cache, and let llama-cpp-python know of it."""
        C.llama_memory_clear(self._memory, False)
        self._llama.reset()  # type: ignore[no-untyped-call]

    def length(self) -> int:
        """Return how many tokens the KV cache holds, by llama.cpp's own account."""
        return int(C.llama_memory_seq_pos_max(self._memory, 0)) + 1

    def prime(self, tokens: list[int]) -> int:
        """Have exactly these tokens in the KV cache, before any clock starts.

        Those that it holds already, from the left, are kept, and only the others evaluated.

        Returns
        -------
        int
            How many that it held already had to be evaluated anew: a recurrent model's state is
            one of all its tokens, and cannot be cut.
        """
        cached_tokens = self.tokens()
        same = 0
        for have, want in zip(cached_tokens, tokens, strict=False):
            if have != want:
                break
            same += 1
        held = same > 0 and self.length() == len(cached_tokens)
        kept = held and self._cut(same)
        if not kept:
            self.forget()
        rest = tokens[same:] if kept else tokens
        if rest:
            self._llama.eval(rest)
            C.llama_synchronize(self._ctx)
        return same if held and not kept else 0

    def _cut(self, length: int) -> bool:
        """Take all but the first tokens out of the KV cache, if that is possible."""
        if not C.llama_memory_seq_rm(self._memory, 0, length, -1):
            return False
        self._llama.n_tokens = length
        return True

    def tokens(self) -> list[int]:
        """Return the tokens that were evaluated into the KV cache, by our own account."""
        return [int(token) for token in self._llama.input_ids[: self._llama.n_tokens]]

    def note(self, tokens: list[int]) -> None:
        """Let llama-cpp-python know which tokens were evaluated past it."""
        self._llama.input_ids[: len(tokens)] = tokens
        self._llama.n_tokens = len(tokens)

    def save(self, path: Path) -> None:
        """Write the KV cache and its tokens to a file by llama.cpp's own call."""
        tokens = self.tokens()
        array = (C.llama_token * len(tokens))(*tokens)
        name = os.fsencode(path)
        if not C.llama_state_seq_save_file(self._ctx, name, 0, array, len(tokens)):
            why = self._log.reason("llama.cpp gave no reason; make room on its disk")
            raise EngineError(f"the state could not be written to {path}: {why}")

    def restore(self, path: Path) -> None:
        """Read what :meth:`save` wrote into an empty KV cache."""
        self.forget()
        room = self._llama.n_ctx()
        array, count = (C.llama_token * room)(), ctypes.c_size_t()
        name, counted = os.fsencode(path), ctypes.byref(count)
        if not C.llama_state_seq_load_file(self._ctx, name, 0, array, room, counted):
            raise EngineError(f"llama.cpp does not accept the state in {path}; delete that file")
        self.note(array[: count.value])

    def save_python(self, path: Path) -> None:
        """Write the state as llama-cpp-python's ``save_state`` holds it, pickled."""
        with path.open("wb") as file:
            pickle.dump(self._llama.save_state(), file, protocol=pickle.HIGHEST_PROTOCOL)

    def restore_python(self, path: Path) -> None:
        """Read what :meth:`save_python` wrote: a file of the lab's own making."""
        with path.open("rb") as file:
            self._llama.load_state(pickle.load(file))
