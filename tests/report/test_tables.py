"""Tables: every cell has a state, every estimate its n, and nothing foreign becomes HTML."""

from __future__ import annotations

from html.parser import HTMLParser

import pandas as pd
import pytest

from llm_latency.plan.settings import Settings
from llm_latency.report import cards, tables
from llm_latency.report.show import show
from tests.support import factories

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">'


class Tags(HTMLParser):
    """The tags and attributes that a browser would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_settings_in_force_shows_only_what_differs() -> None:
    table = tables.settings_in_force(factories.frame(n_batch=(256, 1024), rounds=1))
    rows = {(r.setting, r.asked, r["in force"]): r.cells for _, r in table.iterrows()}
    assert rows[("n_batch", "1024", "512")] == "n_ctx 512, n_batch 1024"
    assert rows[("n_gpu_layers", "-1", "0")] == "all cells"
    assert ("n_batch", "256", "256") not in rows
    assert not {"use_mmap", "type_k", "n_ctx"} & set(table["setting"])


def test_failures_name_reason_and_log() -> None:
    table = tables.failures(factories.frame(failed=factories.FAILED, rounds=2))
    assert table["status"].tolist() == ["invalid", "oom"]
    assert table["trials"].tolist() == ["6", "6"]
    assert table["prompt, tokens"].tolist() == ["64, 192, 448"] * 2
    assert table["log"].str.fullmatch(r"logs/[0-9a-f]{12}-r00\.log").all()
    assert tables.failures(factories.frame(rounds=1)).empty


def test_cards_say_what_is_missing_and_why() -> None:
    rows = dict(cards.machine(factories.info()).itertuples(index=False, name=None))
    assert rows["GPU"] == "not available: NVML found no NVIDIA card"
    assert rows["RAM"] == "8,192 MiB"
    assert rows["CPU frequency governor"] == "not available"
    assert rows["llama_cpp_python"] == "0.3.36"
    info = {"machine": {"cpu": None, "cpu_why": "no /proc"}, "model": {"why": "broken header"}}
    assert dict(cards.machine(info).to_numpy())["CPU"] == "not available: no /proc"
    assert dict(cards.model(info).to_numpy())["architecture"] == "not available: broken header"


def test_a_limit_is_on_the_card_where_there_is_one() -> None:
    info = factories.info()
    info["machine"] |= {"quota_cpus": None, "memory_limit_bytes": None}
    assert not {"quota cpus", "memory limit"} & set(dict(cards.machine(info).to_numpy()))
    info["machine"] |= {"quota_cpus": 0.5, "memory_limit_bytes": 600 * 2**20}
    rows = dict(cards.machine(info).to_numpy())
    assert (rows["quota cpus"], rows["memory limit"]) == ("0.5", "600 MiB")


def test_cards_show_a_gpu() -> None:
    info = factories.info()
    info["machine"]["gpu"] = {"available": True, "name": "RTX", "total_bytes": 6 * 2**30}
    rows = dict(cards.machine(info).to_numpy())
    assert (rows["GPU name"], rows["GPU total"]) == ("RTX", "6,144 MiB")


@pytest.mark.parametrize("card", [cards.machine, cards.model, cards.parameters])
def test_cards_bear_an_empty_info(card) -> None:  # type: ignore[no-untyped-def]
    assert list(card({}).columns)


def test_cards_name_the_model_by_its_file() -> None:
    path = "/home/anna/models/a.gguf"
    info = factories.info(name=path, path=path)
    info["plan"]["parameters"]["model"] = path
    model = dict(cards.model(info).to_numpy())
    assert model["name"] == "a.gguf" and "path" not in model
    assert dict(cards.parameters(info).to_numpy())["model"] == "a.gguf"


@pytest.mark.parametrize("table", [tables.failures, tables.settings_in_force])
@pytest.mark.parametrize(
    "frame",
    [
        factories.to_frame([]),
        factories.frame(n_ctx=(512,), n_batch=(128,), rounds=1, prompts=(64,), max_tokens=1),
        factories.frame(failed={(512, 128): ("crashed", "")}, n_ctx=(512,), n_batch=(128,)),
    ],
    ids=["empty", "one cell", "all failed"],
)
def test_tables_bear_poor_frames(table, frame: pd.DataFrame) -> None:  # type: ignore[no-untyped-def]
    assert show(table(frame)).to_html()


def test_show_escapes_everything() -> None:
    made = [
        factories.record(factories.Settings(), 64, model=HOSTILE, warnings=[HOSTILE]),
        factories.record(
            factories.Settings(n_ctx=1024), 64, model=HOSTILE, failure=("crashed", HOSTILE)
        ),
    ]
    frame = factories.to_frame(made)
    info = factories.info(name=HOSTILE, **{HOSTILE: HOSTILE})
    info["plan"]["parameters"][HOSTILE] = HOSTILE
    every = [
        tables.failures(frame),
        cards.machine({"machine": {"cpu": HOSTILE, HOSTILE: HOSTILE}}),
        cards.model(info),
        cards.parameters(info),
    ]
    for table in every:
        page = Tags(show(table).to_html())
        assert not {"script", "img"} & page.seen
        assert not {name for name in page.attributes if name.startswith("on")}
        assert "alert(1)" in page.text, "escaped, not lost"


def test_show_displays_without_an_index() -> None:
    html = show(tables.failures(factories.frame(failed=factories.FAILED))).to_html()
    assert "row_heading" not in html
    assert 'class="lab grid"' in html
    assert "bad" in html


def test_failures_that_differ_in_their_log_alone_are_one_row() -> None:
    made = [
        factories.record(
            Settings(),
            round=n,
            failure=("oom", f"killed, in phase 'load'; llama.cpp's log: {n}.log"),
        )
        for n in range(3)
    ]
    table = tables.failures(factories.to_frame(made))
    assert len(table) == 1
    assert table["trials"].iloc[0] == "3"
    assert table["reason"].iloc[0] == "killed, in phase 'load'"
