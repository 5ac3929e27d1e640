"""A run in one file: read as it lies, refused where it was touched, without anybody's name."""

from __future__ import annotations

import getpass
import json
import platform
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_latency.errors import LabError, ParameterError
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Plan, Trial
from llm_latency.plan.workload import Workload
from llm_latency.records import archive, nameless
from llm_latency.records.folders import make_folder
from llm_latency.records.many import load_runs
from llm_latency.records.pack import pack
from llm_latency.records.store import RunStore, open_run
from tests.support import factories

DATA = Path(__file__).parents[1] / "data"
STORED = sorted(path.parent for path in DATA.glob("*/run.json"))
OTHER = {"model", "cell_id", "trial_id", "process", "reason", "warnings"}
"""Columns that hold a path, or an identifier that follows from one."""
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAAB/anna/CAIAAACQd1PeAAAADElEQVQI12"


def stored(
    outputs: Path, model: str = "synthetic:tiny", said: str = "", name: str = "r"
) -> RunStore:
    """Store a whole run of a model, whose logs, records and report say something."""
    cells = tuple(
        Trial(
            experiment="sweep",
            model=model,
            settings=Settings(n_ctx=n),
            workload=Workload(prompt=f"Who is {said}?", max_tokens=4),
        )
        for n in (256, 512)
    )
    plan = Plan(experiment="sweep", model=model, cells=cells, rounds=2)
    info = factories.info(path=model) | {"run_id": name, "plan": plan.model_dump(mode="json")}
    run = RunStore.create(outputs / "runs" / name, info)
    for trial in plan.trials():
        made = factories.record(trial.settings, workload=trial.workload, warnings=[said])
        run.append(made.model_copy(update={"trial": trial, "run_id": name, "reason": model}))
        run.log_path(trial.trial_id).write_text(f"loading {model!r} for {said}\n", encoding="utf-8")
    page = f'<html><p class="of">{name} of {said}: {model}</p><img src="data:image/png;base64,'
    (outputs / "sweep.html").write_text(f'{page}{PICTURE}"></html>', encoding="utf-8")
    (outputs / "other.html").write_text("<html>of another run</html>", encoding="utf-8")
    return run


def contents(file: Path) -> dict[str, str]:
    with zipfile.ZipFile(file) as packed:
        return {n: packed.read(n).decode(errors="surrogateescape") for n in packed.namelist()}


def rewritten(file: Path, **members: bytes | None) -> None:
    """Change members of an archive and leave its manifest as it is; ``None`` takes one out."""
    with zipfile.ZipFile(file) as packed:
        kept = {name: packed.read(name) for name in packed.namelist()} | members
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in kept.items():
            if content is not None:
                packed.writestr(name, content)


@pytest.mark.parametrize("folder", STORED, ids=lambda path: path.name)
def test_what_is_stored_reads_the_same_out_of_one_file(folder: Path, outputs: Path) -> None:
    outputs.mkdir()
    file = pack(folder)
    assert file == outputs / f"{folder.name}.zip"
    before, after = open_run(folder), open_run(file)
    assert after.records() == before.records()
    assert open_run(pack(folder, outputs / "kept.zip", keep_names=True)).info == before.info
    assert (after.run_id, after.plan, after.complete) == (folder.name, before.plan, before.complete)
    pd.testing.assert_frame_equal(load_runs(folder), load_runs(file))
    assert not (outputs / "frame.parquet").exists()


def test_an_archive_holds_all_that_is_of_the_run(outputs: Path) -> None:
    run = stored(outputs)
    (run.path / "states").mkdir()
    (run.path / "states" / "large.state").write_bytes(b"x")
    load_runs(run.path)
    held = contents(pack(run))
    logs = {f"logs/{path.name}" for path in run.path.glob("logs/*.log")}
    found = {"run.json", "trials.jsonl", "report/sweep.html", "figures/sweep-1.png", *logs}
    assert set(held) == {archive.MANIFEST, *found} and len(logs) == 4
    assert set(json.loads(held[archive.MANIFEST])["files"]) == found
    given = pack(run, outputs / "given.zip", reports=[outputs / "other.html"], keep_names=True)
    assert "report/other.html" in contents(given) and "report/sweep.html" not in contents(given)


def test_equal_runs_make_equal_archives(outputs: Path) -> None:
    run = stored(outputs)
    first = pack(run, outputs / "a.zip").read_bytes()
    assert pack(run, outputs / "b.zip").read_bytes() == first


def test_patterns_find_folders_and_archives(outputs: Path) -> None:
    first, second = stored(outputs, name="a"), stored(outputs, name="b")
    pack(second, outputs / "runs" / "c.zip")
    shutil.rmtree(second.path)
    frame = load_runs(outputs / "runs" / "*")
    assert list(frame["run_id"].unique()) == ["a", "b"] and len(frame) == 2 * len(first.frame())
    assert open_run("c.zip").run_id == "c"


def test_an_archive_is_never_written_to(outputs: Path) -> None:
    run = stored(outputs)
    file = pack(run, outputs / "runs" / "packed.zip")
    before, packed = file.read_bytes(), open_run(file)
    first = run.records()[0]
    for change in (lambda: packed.append(first), packed.mend, lambda: packed.log_path("x")):
        with pytest.raises(
            LabError, match=r"packed\.zip is a run in one file.*new run_id"
        ) as caught:
            change()
        assert "\n" not in str(caught.value)
    packed.drop_states()
    with pytest.raises(LabError, match="no run goes on"):
        make_folder(file)
    with pytest.raises(ParameterError, match="already"):
        pack(file)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "content", "how"),
    [
        ("trials.jsonl", b"{}\n", "'trials.jsonl' was changed"),
        ("run.json", None, "'run.json' is missing"),
        ("logs/more.log", b"more", "'logs/more.log' was added"),
        ("report/sweep.html", b"<html>", "'report/sweep.html' was changed"),
        (archive.MANIFEST, None, "it has no manifest.json"),
        (archive.MANIFEST, b"[]", "'manifest.json' was changed"),
        (archive.MANIFEST, b'{"format": 2, "files": {}}', "packed by a newer lab"),
    ],
)
def test_what_was_touched_is_refused_by_its_name(
    outputs: Path, name: str, content: bytes | None, how: str
) -> None:
    file = pack(stored(outputs))
    rewritten(file, **{name: content})
    for read in (open_run, load_runs):
        with pytest.raises(LabError) as caught:
            read(file)
        assert how in str(caught.value) and file.name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_name_that_stands_twice_is_refused(outputs: Path) -> None:
    file = pack(stored(outputs))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(file, "a") as packed:
        packed.writestr("trials.jsonl", b"")
    with pytest.raises(LabError, match=r"'trials\.jsonl' was changed"):
        open_run(file)


def test_no_byte_can_change_unseen(outputs: Path) -> None:
    """Of a bit turned anywhere, either an answer is the same or there is none."""
    file = pack(stored(outputs))
    whole, records = file.read_bytes(), open_run(file).records()
    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:cut])
        with pytest.raises(LabError, match=r"no whole archive.*get it again"):
            open_run(file)
    for place in range(0, len(whole), max(1, len(whole) // 300)):
        turned = bytearray(whole)
        turned[place] ^= 1 << place % 8
        file.write_bytes(turned)
        try:
            found = open_run(file).records()
        except LabError:
            continue
        assert found == records, place


@pytest.fixture
def somebody(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Let a test say who measures, and where."""
    for name in ("LOGNAME", "USERNAME", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    yield monkeypatch


def is_at(patch: pytest.MonkeyPatch, home: str, user: str, host: str) -> None:
    patch.setattr(Path, "home", lambda: Path(home))
    patch.setenv("USER", user)
    patch.setattr(getpass, "getuser", lambda: user)
    patch.setattr(platform, "node", lambda: host)


SAID = (
    "{home}/x.gguf, '{home}', file://{home}/y, C:\\\\Users\\\\{user}\\\\z, C:\\Users\\{user}; "
    "{user}@{host} measured, {user}'s own"
)


def test_nobody_is_named(outputs: Path, somebody: pytest.MonkeyPatch) -> None:
    is_at(somebody, "/home/anna", "anna", "anna-laptop")
    said = (
        SAID.format(home="/home/anna", user="anna", host="anna-laptop") + " Hannah, anna2, banana"
    )
    run = stored(outputs, "/home/anna/models/x.gguf", said)
    file = pack(run)
    for name, text in contents(file).items():
        if not name.startswith("figures"):
            text = text.replace("Hannah", "").replace("anna2", "").replace("banana", "")
            assert "anna" not in text.replace(PICTURE, "").lower(), name
            assert "/home" not in text, name
    packed = open_run(file)
    assert packed.plan.model == packed.records()[0].trial.model == "~/models/x.gguf"
    assert "Hannah, anna2, banana" in packed.records()[0].warnings[0]
    assert PICTURE in contents(file)["report/sweep.html"]
    assert packed.complete, "its trials are those of its plan"
    pd.testing.assert_frame_equal(
        run.frame().drop(columns=list(OTHER)), packed.frame().drop(columns=list(OTHER))
    )
    logs = {f"logs/{trial}.log" for trial in packed.done()}
    assert logs <= set(contents(file)), "a log has the name of its trial"
    kept = contents(pack(run, outputs / "kept.zip", keep_names=True))
    assert kept["trials.jsonl"] == (run.path / "trials.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "user",
    [
        "a",
        "root",
        "model",
        "ok",
        "status",
        "sweep",
        "tiny",
        "CPU",
        "f16",
        "p",
        "of",
        "chat",
        "trials",
    ],
)
def test_a_name_that_is_a_word_destroys_nothing(
    outputs: Path, somebody: pytest.MonkeyPatch, user: str
) -> None:
    home = "/root" if user == "root" else f"/home/{user}"
    is_at(somebody, home, user, "ok")
    run = stored(outputs, said=f"{home}/x.gguf is a model of root, status ok")
    packed = open_run(pack(run))
    assert packed.records()[0].warnings == ["~/x.gguf is a model of root, status ok"]
    before, after = run.frame(), packed.frame()
    pd.testing.assert_frame_equal(before.drop(columns=list(OTHER)), after.drop(columns=list(OTHER)))
    assert set(after["model"]) == {"synthetic:tiny"}


LETTERS = st.characters(codec="utf-8", categories=["L", "N"], exclude_characters="\0")
NAMES = st.text(LETTERS, min_size=4, max_size=12).map(lambda name: f"q{name}q")
PARTS = st.sampled_from(["home", "Users", "gpfs", "net work", "é", "x-y", "data.d", "work"])


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(parts=st.lists(PARTS, max_size=3), user=NAMES, host=NAMES, glue=st.sampled_from(" ,;'\"=("))
def test_no_home_folder_is_left_and_no_figure_changes(
    tmp_path: Path, somebody: pytest.MonkeyPatch, parts: list[str], user: str, host: str, glue: str
) -> None:
    home = "/" + "/".join([*parts, user])
    is_at(somebody, home, user, host)
    said = glue + SAID.format(home=home, user=user, host=host)
    shutil.rmtree(tmp_path / "o", ignore_errors=True)
    run = stored(tmp_path / "o", f"{home}/m/x.gguf", said)
    file = pack(run, tmp_path / "packed.zip")
    for name, text in contents(file).items():
        if name == "trials.jsonl":
            text = json.dumps([json.loads(line) for line in text.splitlines()], ensure_ascii=False)
        assert not {user.lower(), host.lower()} & set(re.findall(r"\w+", text.lower())), name
        assert home not in text, name
    packed = open_run(file)
    assert packed.complete
    pd.testing.assert_frame_equal(
        run.frame().drop(columns=list(OTHER)), packed.frame().drop(columns=list(OTHER))
    )


def test_words_that_data_is_written_in_are_nobodys_names() -> None:
    words = nameless._words()
    assert {"status", "ok", "oom", "n_ctx", "decode_s", "model", "engine", "f16"} <= words
    assert not words & {"anna", "pierre", "paul", "smith"}
