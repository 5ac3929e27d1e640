"""Names and texts from outside, as a page shows them."""

from __future__ import annotations

import pytest

from llm_latency.words import cpu_list, cpus_listed, file_name, without_folders
from tests.support import hostile


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("/home/anna/models/a b.gguf", "a b.gguf"),
        ("models/a.gguf", "a.gguf"),
        (r"C:\Users\Anna Smith\a.gguf", "a.gguf"),
        (f"/srv/{hostile.FILE}", hostile.FILE),
        ("synthetic:tiny:q4_0", "synthetic:tiny:q4_0"),
        ("package:some_model/a.gguf", "package:some_model/a.gguf"),
        ("hf:owner/repo/a.gguf@0123abc", "hf:owner/repo/a.gguf@0123abc"),
        ("", ""),
    ],
)
def test_a_model_is_named_by_its_file(model: str, name: str) -> None:
    assert file_name(model) == name


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("failed to open '/home/anna/my models/a.gguf'", "failed to open 'a.gguf'"),
        ("not there (looked in /home/anna)", "not there (looked in ~)"),
        ("/mnt/big/a.gguf, or ~/b.gguf", "a.gguf, or b.gguf"),
        (r"C:\Users\Anna Smith\models\a.gguf: bad", "a.gguf: bad"),
        ("C:/Users/anna/a.gguf", "a.gguf"),
        ("/Users/anna/Library/a", "a"),
    ],
)
def test_a_text_tells_no_folder(text: str, shown: str) -> None:
    assert without_folders(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "1,787 tok/s, and/or n/a",
        "prefill / decode",
        "https://huggingface.co/owner/repo",
        "hf:owner/repo/a.gguf",
        "logs/0-1.log",
        "no room in /dev/shm/x; see /proc/meminfo",
        *hostile.STRINGS.values(),
    ],
)
def test_what_is_no_folder_stays(text: str) -> None:
    assert without_folders(text) == text


@pytest.mark.parametrize(
    ("cpus", "text"), [([0], "0"), ([2, 0], "0,2"), ([3, 1, 2, 8, 2], "1-3,8"), ([], "")]
)
def test_cpus_are_listed_as_linux_lists_them(cpus: list[int], text: str) -> None:
    assert cpu_list(cpus) == text
    assert cpus_listed(text) == set(cpus)
