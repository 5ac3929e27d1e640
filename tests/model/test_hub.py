"""Files of a Hub on this machine: found, fetched whole whatever breaks, proven, pinned."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import llm_latency as lab
from llm_latency.errors import LabError, ParameterError
from llm_latency.model import download, header, hub, names
from tests.support.factories import FakeWorker
from tests.support.hub_server import Hub, hub_server, pointed_at
from tests.support.odd_models import split

ROOT = Path(__file__).resolve().parents[2]
NAME = "hf:owner/repo/model.Q8_0.gguf"
SPLIT = "hf:owner/repo/q8/x-00001-of-00003.gguf"
SMALL = random.Random(0).randbytes(300_000)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLM_LATENCY_CACHE", str(tmp_path / "cards"))
    return tmp_path / "caché"


@pytest.fixture
def server(cache: Path) -> Iterator[Hub]:
    with hub_server() as made, pointed_at(made.endpoint, cache):
        yield made


@pytest.fixture
def commit(server: Hub) -> str:
    """A commit that holds one small file."""
    return server.repository("owner/repo").commit({"model.Q8_0.gguf": SMALL})


@pytest.fixture
def three(server: Hub, tiny: Path, tmp_path: Path) -> list[Path]:
    """A model in three files, on this disk and at the Hub."""
    (tmp_path / "q8").mkdir()
    every = split(tiny, tmp_path / "q8", "x", 3)
    server.repository("owner/repo").commit({f"q8/{p.name}": p.read_bytes() for p in every})
    return every


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("hf:o/r/f.gguf", ("o/r", "f.gguf", None)),
        ("hf:o/r/sub/f.gguf@v1", ("o/r", "sub/f.gguf", "v1")),
        ("hf:o/r/f.gguf@refs/pr/1", ("o/r", "f.gguf", "refs/pr/1")),
    ],
)
def test_names(name: str, parts: tuple[str, str, str | None]) -> None:
    assert tuple(hub.parse_name(name)) == parts


@pytest.mark.parametrize(
    "name", ["hf:", "hf:o/r", "hf:o/r/f.bin", "hf:o//f.gguf", "hf:o/r/@x", "hf:o/r/../f.gguf"]
)
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(ParameterError, match=r"hf:owner/repo/file\.gguf"):
        hub.parse_name(name)


def test_a_model_is_fetched_once_and_is_what_the_hub_says(
    server: Hub, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = tiny.read_bytes()
    commit = server.repository("owner/repo").commit({"model.Q8_0.gguf": content})
    path = names.resolve(NAME, progress=True)
    assert path.read_bytes() == content
    assert server.served == len(content)
    assert f"{NAME}@main stands for {NAME}@{commit}" in capsys.readouterr().err
    card = names.card(NAME, path)
    assert (card.revision, card.name) == (commit, NAME)
    assert card.sha256 == hashlib.sha256(content).hexdigest()
    assert card.architecture == "llama"
    # Again: nothing is fetched; with the commit in its name nothing is even asked.
    assert names.resolve(NAME) == path
    asked = len(server.asked)
    assert names.resolve(f"{NAME}@{commit}") == path
    assert (server.served, len(server.asked)) == (len(content), asked)
    # It lies where other programs that use the Hub look for it.
    from huggingface_hub import try_to_load_from_cache

    assert try_to_load_from_cache("owner/repo", "model.Q8_0.gguf") == str(path)
    assert [p.name for p in path.resolve().parent.iterdir()] == [card.sha256]


@given(st.lists(st.integers(0, len(SMALL)), max_size=6))
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_wherever_connections_break_nothing_is_fetched_twice(
    server: Hub, commit: str, cache: Path, breaks: list[int]
) -> None:
    shutil.rmtree(cache, ignore_errors=True)
    server.served = 0
    server.faults.breaks = breaks[:]
    assert names.resolve(NAME).read_bytes() == SMALL
    assert server.served == len(SMALL)


def test_a_connection_that_is_reset_or_falls_silent(
    server: Hub, commit: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    for how in ("reset", "stall"):
        shutil.rmtree(cache, ignore_errors=True)
        server.faults.how, server.faults.breaks = how, [100_000, 0, 150_000]
        assert names.resolve(NAME).read_bytes() == SMALL
        assert server.faults.breaks == []


def test_what_came_before_this_process_is_not_fetched_again(
    server: Hub, commit: str, cache: Path
) -> None:
    server.faults.breaks = [100_000, *[0] * hub.TRIES]
    with pytest.raises(LabError) as caught:
        names.resolve(NAME)
    assert "0.1 of 0.3 MB" in str(caught.value)
    assert "the same call goes on behind it" in str(caught.value)
    assert "\n" not in str(caught.value)
    # Another process, with nothing but the disk to know it by.
    server.served = 0
    environment = os.environ | {"HF_ENDPOINT": server.endpoint, "HF_HUB_CACHE": str(cache)}
    lines = f"from llm_latency.model import names; print(names.resolve({NAME!r}))"
    done = subprocess.run(
        [sys.executable, "-c", lines], env=environment, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes() == SMALL
    assert server.served == len(SMALL) - 100_000


def test_what_a_killed_process_fetched_is_kept(server: Hub, commit: str, cache: Path) -> None:
    server.faults.breaks, server.faults.how = [100_000], "stall"
    environment = os.environ | {"HF_ENDPOINT": server.endpoint, "HF_HUB_CACHE": str(cache)}
    lines = f"from llm_latency.model import names; names.resolve({NAME!r})"
    killed = subprocess.Popen([sys.executable, "-c", lines], env=environment)
    blobs = cache / "models--owner--repo" / "blobs"
    try:
        deadline = time.monotonic() + 60
        while sum(part.stat().st_size for part in blobs.glob("*.incomplete")) < 90_000:
            assert killed.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        killed.kill()
        killed.wait()
    (part,) = blobs.glob("*.incomplete")
    have, server.served = part.stat().st_size, 0
    assert names.resolve(NAME).read_bytes() == SMALL
    assert server.served == len(SMALL) - have


def test_two_that_want_the_same_file_fetch_it_once(server: Hub, commit: str) -> None:
    with ThreadPoolExecutor() as pool:
        second: list[Future[Path]] = []

        def begin() -> None:
            second.append(pool.submit(names.resolve, NAME))
            time.sleep(0.3)  # so that it comes to where the first one is

        server.faults.breaks, server.faults.meanwhile = [100_000], begin
        first = names.resolve(NAME)
        assert first == second[0].result()
    assert first.read_bytes() == SMALL
    assert server.served == len(SMALL)


@pytest.mark.parametrize("wrong", [False, True])
def test_what_is_too_large_for_ranges_comes_in_the_hubs_own_way(
    server: Hub, commit: str, wrong: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "BY_RANGE", len(SMALL) - 1)
    monkeypatch.setattr(hub, "stream", None)
    if not wrong:
        assert names.resolve(NAME).read_bytes() == SMALL
        return
    server.faults.wrong = SMALL[::-1]
    for _ in range(2):
        with pytest.raises(LabError, match=r"not the same file; delete .* and call again"):
            names.resolve(NAME)


def test_a_hub_that_is_busy_is_asked_again(server: Hub, commit: str) -> None:
    server.faults.statuses = [503, 429, 0, 0, 500]
    assert names.resolve(NAME).read_bytes() == SMALL
    assert server.served == len(SMALL)


def test_a_server_without_ranges_costs_traffic_and_nothing_else(server: Hub, commit: str) -> None:
    server.faults.ignores_ranges = True
    server.faults.breaks = [200_000]
    assert names.resolve(NAME).read_bytes() == SMALL
    assert server.served == len(SMALL) + 200_000


def test_wrong_content_is_never_trusted(server: Hub, commit: str, cache: Path) -> None:
    server.faults.wrong = SMALL[:-1] + b"x"
    ours, theirs = (hashlib.sha256(b).hexdigest() for b in (server.faults.wrong, SMALL))
    for _ in range(2):
        with pytest.raises(LabError, match=f"{theirs} on the Hub, but {ours} here") as caught:
            names.resolve(NAME)
    # No program finds it under its name, and nobody fetched it a second time.
    assert hub.in_cache(hub.parse_name(NAME), commit) is None
    assert server.served == len(SMALL)
    server.faults.wrong = None
    part = Path(str(caught.value).partition("delete ")[2].removesuffix(" and call again"))
    part.unlink()
    assert names.resolve(NAME).read_bytes() == SMALL


@pytest.mark.parametrize("pinned", [True, False])
def test_a_file_that_changed_on_the_disk_is_never_trusted(
    server: Hub, commit: str, pinned: bool
) -> None:
    path = names.resolve(NAME)
    path.resolve().write_bytes(SMALL[:-1] + b"x")
    name = f"{NAME}@{commit}" if pinned else NAME
    for _ in range(2):
        with pytest.raises(LabError, match=f"delete {path.resolve()} and call again"):
            names.resolve(name)
    path.resolve().unlink()
    assert names.resolve(name).read_bytes() == SMALL


def test_more_than_the_hub_promised_is_not_taken(server: Hub, commit: str, cache: Path) -> None:
    server.faults.ignores_ranges = True
    server.faults.wrong = SMALL + b"more"
    assert names.resolve(NAME).read_bytes() == SMALL


def test_a_part_that_is_longer_than_the_file_is_begun_again(
    server: Hub, commit: str, cache: Path
) -> None:
    checksum = hashlib.sha256(SMALL).hexdigest()
    part = cache / "models--owner--repo" / "blobs" / f"{checksum}.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(SMALL * 2)
    assert names.resolve(NAME).read_bytes() == SMALL


def test_a_run_keeps_its_commit_while_the_branch_moves(server: Hub, commit: str) -> None:
    first = names.resolve(NAME)
    info = {"model": names.card(NAME, first).model_dump()}
    later = server.repository("owner/repo").commit({"model.Q8_0.gguf": SMALL[::-1]})
    assert names.resolve(NAME).read_bytes() == SMALL[::-1]
    assert names.card(NAME, names.resolve(NAME)).revision == later
    name = names.pinned(NAME, info)
    assert name == f"{NAME}@{commit}"
    assert names.resolve(name).read_bytes() == SMALL
    assert names.pinned("synthetic:tiny", info) == "synthetic:tiny"
    assert names.pinned(NAME, {}) == NAME


def test_a_branch_that_moves_under_a_download(server: Hub, commit: str) -> None:
    repository = server.repository("owner/repo")
    server.faults.breaks = [100_000]
    server.faults.meanwhile = lambda: repository.commit({"model.Q8_0.gguf": SMALL[::-1]})
    path = names.resolve(NAME)
    assert path.read_bytes() == SMALL
    assert names.card(NAME, path).revision == commit
    assert repository.branches["main"] != commit


def test_a_resumed_run_measures_the_commit_that_it_began_with(
    server: Hub, commit: str, fake_worker: FakeWorker, outputs: Path, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    fake_worker("answers", note=str(seen))
    plan = lab.experiments.sweep(
        model=NAME, n_ctx=[512, 1024], n_batch=256, prompt_tokens=8, max_tokens=3, run_id="r"
    )
    run = lab.run(plan, progress=False)
    assert run.info["model"]["revision"] == commit
    # Stopped half-way, and gone on with after the branch has moved.
    trials = run.path / "trials.jsonl"
    lines = trials.read_text(encoding="utf-8").splitlines(keepends=True)
    trials.write_text("".join(lines[: len(lines) // 2]), encoding="utf-8")
    server.repository("owner/repo").commit({"model.Q8_0.gguf": SMALL[::-1]})
    assert lab.run(plan, progress=False).complete
    measured = seen.read_text().split()
    assert len(measured) > len(lines)
    assert {Path(path).parent.name for path in measured} == {commit}


def test_tags_and_branches(server: Hub, commit: str) -> None:
    repository = server.repository("owner/repo")
    repository.tags["v1"] = commit
    other = repository.commit({"model.Q8_0.gguf": SMALL[:1000]}, branch="next")
    assert names.resolve(f"{NAME}@v1").read_bytes() == SMALL
    assert names.resolve(f"{NAME}@next").read_bytes() == SMALL[:1000]
    assert names.card(NAME, names.resolve(f"{NAME}@next")).revision == other
    # The same content under another commit is not fetched again.
    served = server.served
    repository.commit({"model.Q8_0.gguf": SMALL, "README.md": b""})
    assert names.resolve(NAME).read_bytes() == SMALL
    assert server.served == served


@pytest.mark.parametrize("way", ["offline", "no network", "down"])
def test_without_the_hub_the_cache_serves(
    server: Hub,
    commit: str,
    way: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from huggingface_hub import constants

    path = names.resolve(NAME)
    if way == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif way == "no network":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
        template = "http://127.0.0.1:1/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    else:
        server.faults.statuses = [503] * 99
    assert names.resolve(NAME) == path
    assert f"is used as the cache has it: {commit}" in capsys.readouterr().err
    assert names.card(NAME, path).revision == commit
    with pytest.raises(LabError, match=r"other\.gguf is not in the cache") as caught:
        names.resolve("hf:owner/repo/other.gguf")
    assert "the path of a file that you have" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_hub_is_the_one_that_the_environment_names(cache: Path) -> None:
    """In a process of its own, as a user sets HF_ENDPOINT and HF_HUB_OFFLINE."""
    lines = f"from llm_latency.model import names; names.resolve({NAME!r})"
    for variables, words in (
        ({"HF_ENDPOINT": "http://127.0.0.1:1"}, "http://127.0.0.1:1 cannot be reached"),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE forbids to fetch it"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", lines],
            env=os.environ | variables | {"HF_HUB_CACHE": str(cache)},
            capture_output=True,
            encoding="utf-8",
        )
        assert done.returncode != 0
        assert words in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"gated": True}, r"gated.*licence at http.*/owner/repo.*hf auth login"),
        ({"private": True}, r"not on the Hub, or is private.*hf auth login"),
        ({"denied": 403}, r"denies you.*403.*licence.*hf auth login"),
        ({"denied": 401}, r"denies you.*401.*hf auth login"),
    ],
)
def test_who_may_not_is_told_what_to_do(
    server: Hub, commit: str, fault: dict[str, object], words: str
) -> None:
    for name, value in fault.items():
        setattr(server.faults, name, value)
    with pytest.raises(LabError, match=words) as caught:
        names.resolve(NAME)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "denies"), (403, "denies"), (404, r"not in owner/repo on the Hub\. Give")],
)
def test_access_that_ends_under_way_is_not_tried_again(
    server: Hub, commit: str, status: int, words: str
) -> None:
    server.faults.statuses = [0, status]  # HEAD passes, the content does not
    with pytest.raises(LabError, match=words):
        names.resolve(NAME)
    assert [asked.split()[0] for asked in server.asked if "/api/" not in asked] == ["HEAD", "GET"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hf:owner/repo/modell.q8_0.gguf", r"not in owner/repo .*mean 'model\.Q8_0\.gguf'"),
        ("hf:owner/repo/zzz.gguf", r"not in owner/repo on the Hub\. Give the name"),
        (f"{NAME}@mian", r"no revision 'mian' on the Hub; did you mean 'main'"),
        ("hf:nobody/repo/f.gguf", r"nobody/repo is not on the Hub"),
        ("hf:owner/repo--x/f.gguf", r"no name on the Hub.*hf:owner/repo/file\.gguf"),
    ],
)
def test_a_wrong_name_is_told_the_nearest(server: Hub, commit: str, name: str, words: str) -> None:
    with pytest.raises(LabError, match=words) as caught:
        names.resolve(name)
    assert "\n" not in str(caught.value)
    with pytest.raises(LabError, match=words):
        names.header_of(name)


def test_a_disk_that_is_too_small_is_told_before_the_first_byte(
    server: Hub, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=len(SMALL) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(LabError, match=r"GB are free; .*HF_HUB_CACHE"):
        names.resolve(NAME)
    assert server.served == 0


def test_a_cache_that_cannot_be_written_is_one_sentence(
    server: Hub, commit: str, cache: Path
) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(LabError, match=r"cannot be written.*HF_HUB_CACHE"):
        names.resolve(NAME)


def test_a_token_goes_to_the_hub_and_no_further(
    server: Hub, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert names.resolve(NAME).read_bytes() == SMALL
    assert server.tokens["hub"] > 0
    assert server.tokens["content"] == 0


@pytest.mark.parametrize(
    "message",
    ["Invalid credentials in Authorization header", 'User Access Token "old" is expired'],
)
def test_a_token_that_is_not_valid_is_told_and_a_licence_is_not_its_cause(
    server: Hub,
    commit: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.faults.token_refused = message
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(LabError, match=r"your token is not valid.*renew.*unset HF_TOKEN") as caught:
        names.resolve(NAME)
    assert not any(word in str(caught.value) for word in ("gated", "licence", "hf_expired"))
    monkeypatch.delenv("HF_TOKEN")
    assert names.resolve(NAME).read_bytes() == SMALL
    # The cache serves, whatever the token.
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    assert names.resolve(NAME).read_bytes() == SMALL
    assert "unset HF_TOKEN" in capsys.readouterr().err


def test_a_valid_token_does_not_hide_that_a_repository_is_private(
    server: Hub, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    server.faults.private = True
    with pytest.raises(LabError, match="not on the Hub, or is private"):
        names.resolve(NAME)


def test_a_model_on_the_hub_is_judged_by_its_head(
    server: Hub, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tiny.read_bytes()
    commit = server.repository("owner/repo").commit({"model.Q8_0.gguf": content})
    monkeypatch.setattr(download, "FIRST_BYTES", 1 << 16)  # too few: it must ask for more
    server.faults.breaks = [1000, 2000, 0]
    assert names.header_of(NAME) == header.read_header(tiny)
    assert server.served < len(content) / 10
    # What is here is read here.
    names.resolve(NAME)
    served = server.served
    assert names.header_of(NAME) == names.header_of(f"{NAME}@{commit}")
    assert server.served == served


@pytest.mark.engine
@pytest.mark.usefixtures("outputs")
def test_a_model_in_parts_is_the_one_that_lies_on_the_disk(server: Hub, three: list[Path]) -> None:
    plan = lab.experiments.sweep(
        model=SPLIT, n_ctx=512, n_batch=256, prompt_tokens=32, max_tokens=4, rounds=1, repeats=0
    )
    run = lab.run(plan, progress=False)
    assert {(record.status, record.reason) for record in run.records()} == {("ok", None)}
    assert server.served == sum(part.stat().st_size for part in three)
    here, there = names.card(str(three[0]), three[0]), names.card(SPLIT, names.resolve(SPLIT))
    assert (there.sha256, there.size_bytes) == (here.sha256, here.size_bytes)
    assert run.info["model"]["sha256"] == here.sha256
    assert there.revision == server.repository("owner/repo").branches["main"]
    # With the commit in its name, and all parts here, nothing is even asked.
    asked = len(server.asked)
    names.resolve(f"{SPLIT}@{there.revision}")
    assert len(server.asked) == asked


def test_parts_come_from_one_commit_and_none_twice(
    server: Hub, three: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    repository, (first, second, third) = server.repository("owner/repo"), three
    commit = repository.branches["main"]
    server.faults.breaks = [first.stat().st_size, 100_000, *[0] * hub.TRIES]
    server.faults.meanwhile = lambda: repository.commit({"q8/" + first.name: b"another"})
    with pytest.raises(LabError, match=rf"0\.1 of .* MB of {second.name} have come"):
        names.resolve(SPLIT)
    path = names.resolve(f"{SPLIT}@{commit}", progress=True)
    assert [path.with_name(part.name).read_bytes() for part in three] == [
        part.read_bytes() for part in three
    ]
    total = sum(part.stat().st_size for part in three)
    assert server.served == total
    asked = [line for line in server.asked if second.name in line]
    assert asked and all(f"/resolve/{commit}/" in line for line in asked)
    left = (second.stat().st_size + third.stat().st_size) / 1e6
    assert f"{left:.2f}M/{left:.2f}M" in capsys.readouterr().err
    damaged = path.with_name(third.name).resolve()
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    with pytest.raises(LabError, match=rf"{third.name}@{commit} has .* delete {damaged}"):
        names.resolve(f"{SPLIT}@{commit}")


def test_the_room_for_all_parts_is_asked_before_the_first(
    server: Hub, three: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    total = sum(part.stat().st_size for part in three)
    usage = shutil.disk_usage("/")._replace(free=total - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(LabError, match="GB are free"):
        names.resolve(SPLIT)
    assert server.served == 0


def test_a_part_that_the_hub_lacks_is_named_before_anything_is_fetched(
    server: Hub, three: list[Path]
) -> None:
    files = {f"q8/{part.name}": part.read_bytes() for part in three[:2]}
    commit = server.repository("owner/repo").commit(files)
    for ask in (names.resolve, names.header_of):
        with pytest.raises(LabError, match=rf"{commit} lacks q8/{three[2].name} on the Hub"):
            ask(SPLIT)
    assert server.served == 0
    with pytest.raises(ParameterError, match=rf"3 files; give the first, '{three[0].name}'"):
        names.resolve(SPLIT.replace("00001", "00002"))


@pytest.mark.engine
def test_what_a_model_in_parts_takes_is_known_before_it_is_fetched(
    server: Hub, three: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llm_latency.engine.dry_run import DryRun
    from llm_latency.plan.settings import Settings

    monkeypatch.setattr(download, "FIRST_BYTES", 1 << 16)  # less than the first part
    settings = Settings(n_ctx=512, n_batch=256, n_gpu_layers=0)
    with names.skeleton(SPLIT) as (path, found), DryRun(path) as before, DryRun(three[0]) as after:
        assert found == header.read_header(three[0])
        assert before.ask(settings, "cpu") == after.ask(settings, "cpu")
    verdicts = [lab.fits(name, "40 MiB", n_ctx=512) for name in (SPLIT, str(three[0]))]
    assert verdicts[0].parts == verdicts[1].parts
    assert server.served < sum(part.stat().st_size for part in three) / 4


def test_a_header_that_does_not_come_is_one_sentence(server: Hub, commit: str) -> None:
    server.faults.breaks = [0] * 99
    with pytest.raises(LabError, match=r"header of hf:owner.*cannot be read.*network"):
        names.header_of(NAME)
    server.faults.breaks = []
    with pytest.raises(ParameterError, match=r"model\.Q8_0\.gguf.*whole GGUF"):
        names.header_of(NAME)


def test_fetching_has_a_bar(server: Hub, commit: str, capsys: pytest.CaptureFixture[str]) -> None:
    names.resolve(NAME, progress=True)
    assert "model.Q8_0.gguf: 100%" in capsys.readouterr().err


def test_a_checksum_of_git_is_checked_too(tmp_path: Path) -> None:
    """Small files have git's own checksum on the Hub: of a head with the size, and the content."""
    file = tmp_path / "f.gguf"
    file.write_bytes(b"hello\n")
    place = hub.Place(
        hub.parse_name(NAME), "c" * 40, "ce013625030ba8dba906f756967f9e9ca394464a", 6, file
    )
    download.verify(place, "0" * 64)
    file.write_bytes(b"hellO\n")
    with pytest.raises(LabError, match="not the same file"):
        download.verify(place, "0" * 64)


def test_many_broken_downloads_keep_their_promise() -> None:
    """The benchmark, shortened."""
    lines = "from benchmarks.faults import downloads; print(*downloads.report(4), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", lines], cwd=ROOT, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert "4 of 4" in done.stdout.splitlines()[-1]
