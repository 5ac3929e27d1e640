"""The tokenizer vocabulary of synthetic models: ordinary French and English text, any size.

llama.cpp's ``llama`` tokenizer (the SentencePiece kind) starts from single characters and
keeps joining two neighbours whose concatenation is a token, the best score first; what never
became a token falls back to bytes. A word can therefore be reached only if enough of its parts
are tokens too. Here every beginning of every word is one: whatever was joined inside the word,
its first part and the next always concatenate to another beginning, so the joining cannot stop
before the whole word is a single token.

The order is: control tokens, the 256 bytes, single characters, beginnings and pieces of the
frequent words in ``data/words.txt``, then made-up words of harmless syllables that fill the
vocabulary up to the size asked for. A score is minus the token's number, so a smaller
vocabulary is the beginning of a larger one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

SPACE = "\u2581"
"""The mark that stands for a space inside tokens."""

UNKNOWN, BEGIN, END = 0, 1, 2
"""Numbers of the control tokens ``<unk>``, ``<s>`` and ``</s>``."""

N_UNWRITTEN = 3 + 256
"""Control and byte tokens, the first ones: what a model should not write by itself."""

MIN_SIZE = 512
"""Smallest vocabulary: control tokens, bytes and single characters fit with room to spare."""

# The numbers that GGUF gives to kinds of tokens.
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6

_CHARACTERS = (
    SPACE
    + "etaoinsrhldcumfpgwybvkxjqz'.,-"
    + "ETAOINSRHLDCUMFPGWYBVKXJQZ0123456789"
    + "éèàêçùôîâûëïüœæÉÈÀÊÇÔÎÂÙŒ"
    + '":;!?()[]{}<>/\\|_+=*&%$#@~^`'
    + "’‘“”«»–—…€°£§©²\u00a0\u202f"
)
_AFTER_SPACE = "etaoinsrhldcumfpgwybvkxjqzéàêçœÀÉÊ\"'(«»“–—-:;!?%/€=+*#<[{1234567890"
_N_CAPITALISED = 320
"""Words that are also there with a capital, frequent enough to begin sentences."""
_N_UNSPACED = 320
"""Words that are also there without a space before them, as after a bracket or a new line."""

_CLUSTERS = ("ch", "qu", "br", "cl", "cr", "dr", "fl", "fr", "gr", "pl", "pr", "th", "tr")
_ONSETS = (*"bcdfghjlmnprstv", *_CLUSTERS)
_VOWELS = (*"aeiouéè", "ou", "ai")
_OPEN = tuple(onset + vowel for onset in _ONSETS for vowel in _VOWELS)
_CLOSED = tuple(
    onset + vowel + coda for onset in "bcdflmnprstv" for vowel in "aeio" for coda in "nrlst"
)
_STRIDE = 104_729  # a prime: walks through all combinations, neighbours sharing no beginning


@dataclass(frozen=True)
class Vocabulary:
    """Tokens in the order of their numbers, with the score and the GGUF type of each.

    Attributes
    ----------
    tokens, scores, types
        Three tuples of the same length, the size of the vocabulary.
    """

    tokens: tuple[str, ...]
    scores: tuple[float, ...]
    types: tuple[int, ...]


@lru_cache(maxsize=8)
def build_vocabulary(size: int) -> Vocabulary:
    """Build the vocabulary of `size` tokens; the same size always gives the same tokens.

    Parameters
    ----------
    size
        Number of tokens, at least ``MIN_SIZE``.

    Raises
    ------
    ValueError
        If `size` is below ``MIN_SIZE``.
    """
    if size < MIN_SIZE:
        raise ValueError(
            f"A vocabulary of {size} tokens is too small for the bytes and letters of ordinary "
            f"text: ask for at least {MIN_SIZE}."
        )
    control = ["<unk>", "<s>", "</s>"]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = dict.fromkeys(itertools.chain(_CHARACTERS, _word_pieces()))
    filler = (word for word in _made_up_words() if word not in pieces)
    written = itertools.chain(pieces, filler)
    tokens = (*control, *byte_tokens, *itertools.islice(written, size - N_UNWRITTEN))
    types = (_UNKNOWN, _CONTROL, _CONTROL, *[_BYTE] * 256, *[_NORMAL] * (size - N_UNWRITTEN))
    scores = (*[0.0] * N_UNWRITTEN, *(-float(number) for number in range(N_UNWRITTEN, size)))
    return Vocabulary(tokens, scores, types)


@lru_cache(maxsize=1)
def _word_pieces() -> tuple[str, ...]:
    """Every beginning of every frequent word and piece, the most frequent first."""
    pieces: dict[str, None] = dict.fromkeys(SPACE + character for character in _AFTER_SPACE)
    words: dict[str, None] = {}
    listed = Path(__file__).parents[1] / "data" / "words.txt"
    for line in listed.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        if line.startswith("+"):
            for piece in line[1:].split():
                pieces.update(dict.fromkeys(_beginnings(piece)))
        else:
            words.update(dict.fromkeys(line.split()))
            for word in line.split():
                pieces.update(dict.fromkeys(_beginnings(SPACE + word)))
    for length in range(2, 9):  # indented text and code
        pieces[SPACE * length] = None
    for word in itertools.islice(words, _N_UNSPACED):
        pieces.update(dict.fromkeys(_beginnings(word)))
    for word in itertools.islice(words, _N_CAPITALISED):
        pieces.update(dict.fromkeys(_beginnings(SPACE + word[0].upper() + word[1:])))
    # Syllables let a word that is not listed fall into a few parts, not into single letters.
    pieces.update(dict.fromkeys((*_OPEN, *(SPACE + syllable for syllable in _OPEN), *_CLOSED)))
    return tuple(pieces)


def _beginnings(text: str) -> Iterator[str]:
    """All beginnings of `text` from two characters on, ending with `text` itself."""
    return (text[:length] for length in range(2, len(text) + 1))


def _made_up_words() -> Iterator[str]:
    """Endless made-up words of two syllables, then of three, four and so on."""
    for n_syllables in itertools.count(2):
        n_words = len(_OPEN) ** n_syllables
        seen = set()
        for step in range(n_words):
            number = step * _STRIDE % n_words
            word = SPACE
            for _ in range(n_syllables):
                number, syllable = divmod(number, len(_OPEN))
                word += _OPEN[syllable]
            if word not in seen:
                seen.add(word)
                yield word
