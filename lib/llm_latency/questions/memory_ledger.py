"""Where the memory is: predicted before loading, allocated by llama.cpp, seen by the system.

Loading allocates four parts. The weights are the file's tensors: pages of the mapped file, or a
copy. The KV cache is ``2 × layers × KV heads × head width × bytes``, times ``n_ctx``. The compute
buffer holds the widest step of the graph for ``n_ubatch`` tokens at once, the output one row of
logits. Allocated is not yet resident: the system gives a page only when it is touched. The cache
is set to zero while loading and so is resident then, the compute buffer is touched by the first
prompt; that is what a process grows by in its first generation. Python and the libraries lie
beside all this, and no prediction holds them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Annotated, Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from llm_latency.engine.dry_run import NotForetoldError, Side
from llm_latency.memory.dry_run import stored
from llm_latency.memory.fits import Fit, fit_of
from llm_latency.memory.predict import Prediction
from llm_latency.model import names
from llm_latency.model.header import Header
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.settings import Settings
from llm_latency.plan.sizes import size_bytes
from llm_latency.plan.spec import Plan
from llm_latency.records import frame as fr
from llm_latency.records.machines import on_one
from llm_latency.records.record import PLACES
from llm_latency.report import figure as fig
from llm_latency.report import layout, phrases, style, tables
from llm_latency.report.expect import NOT_FORETOLD
from llm_latency.report.page import Answer, Run, code, model_name, no_answer, parameters_of
from llm_latency.stats.estimate import Estimate, estimate
from llm_latency.words import MIB, enumerate_words, escape, missing, number, percent, several, span

PHASES = {"after_load": "loaded", "after_first": "first answer", "after_last": "last answer"}
"""When the system was asked what is resident, in words."""
BESIDE = ("python", "heap", "code")
"""Places of what is no part of the model."""
GRAIN_BYTES = 0.006 / MIB
"""llama.cpp prints MiB with two decimals: what differs by less is equal."""
TOLD_SHARE = 0.02
"""Share of a growth from which its place is named."""


def plan(
    model: str = "synthetic:tiny",
    n_ctx: Grid = (1024, 4096),
    n_ubatch: Annotated[Grid, "most tokens computed at once; 0: the engine's own"] = (128, 512),
    prompt_tokens: Annotated[int, "length of the prompt: n_ubatch or more, to touch it all"] = 600,
    max_tokens: int = 16,
    budget: Annotated[str, 'memory that there is: "6 GiB", "110 %" of the file; "": any'] = "",
    rounds: int = 6,
    **options: Any,
) -> Plan:
    """Plan every context and batch, with what is resident before and after the first answer."""
    request = Request("memory_ledger", locals(), names.check, how_much=True)
    if str(given := request.one("budget")).strip():
        size_bytes("budget", given, functools.partial(names.file_bytes, request.model))
    cells = [
        request.cell(
            **sizes,
            prompt_tokens=request.one("prompt_tokens"),
            max_tokens=request.one("max_tokens"),
            repeats=1,
            page_cache="resident",
        )
        for sizes in request.grid("n_ctx", "n_ubatch")
    ]
    return request.plan(cells)


@dataclass(frozen=True)
class Ledger:
    """One cell's memory, three times over, in bytes.

    Attributes
    ----------
    cell : str
        Its settings, in words.
    settings : Settings
        As asked.
    processes : pandas.DataFrame
        A row per process that ended well; empty where none did.
    ended : str
        How its processes ended, ``ok 5, oom 1``.
    predicted, allocated : dict
        By part, ``weights``, ``KV cache``, ``compute`` and ``output``; empty where not known.
    """

    cell: str
    settings: Settings
    processes: pd.DataFrame
    ended: str
    predicted: dict[str, float]
    allocated: dict[str, float]
    predicted_vram_bytes: float | None = None

    @property
    def ratio(self) -> float:
        """Predicted total divided by allocated total; NaN where one is not known."""
        if not self.predicted or not self.allocated:
            return float("nan")
        return sum(self.predicted.values()) / sum(self.allocated.values())

    def resident(self, phase: str) -> dict[str, float]:
        """Return the median of each place in a phase; empty where the system does not tell."""
        medians = self.processes[[f"{place}_{phase}_bytes" for place in PLACES]].median()
        return {} if medians.isna().any() else dict(zip(PLACES, medians, strict=True))

    def growth(self, place: str = "rss", first: str = "after_load") -> Estimate:
        """Return what a place, or the whole process, grew by from a phase to the next."""
        after = "after_first" if first == "after_load" else "after_last"
        end, start = (self.processes[f"{place}_{phase}_bytes"] for phase in (after, first))
        return estimate((end - start).dropna())


class View:
    """The ledgers of a run, a cell each, and the budget that they are held against.

    Attributes
    ----------
    ledgers : list of Ledger
        Every cell, also one in which nothing could be measured.
    measured : list of Ledger
        Those of them in which something was.
    on : str
        Where the model's layers were, ``gpu`` or ``cpu``: the side that a budget is of.
    budget : str
        The memory that there is, as it was asked; empty: it was not.
    why_not_predicted : str
        Why nothing was predicted; empty where it was.
    fits : dict
        By cell, how the prediction fits the budget, of which RAM bears Python and the libraries
        too; empty where that was not asked, or not predicted.
    """

    def __init__(self, run: Run) -> None:
        run = on_one(run)
        rows = run.frame()
        for phase in PHASES:
            columns = [f"{place}_{phase}_bytes" for place in PLACES]
            # Where the system tells of places, one that a process has nothing in is empty.
            seen = rows[columns].notna().any(axis=1)
            rows = rows.assign(**rows.loc[seen, columns].fillna(0.0))
        self.info, self.data = run.info, fr.by_cell(rows)
        on_gpu = (fr.ok(self.data)["effective_n_gpu_layers"] > 0).any()
        self.on: Side = "gpu" if on_gpu else "cpu"
        self.budget = str(parameters_of(run.info).get("budget") or "").strip()
        header = run.info.get("header")
        self.header = Header.model_validate(header) if header else None
        self.why_not_predicted = "" if header else "the model's header is not stored with the run"
        self._foretell = stored(run.info, self.header, self.on) if self.header else None
        self.ledgers = list(map(self._ledger, fr.cells(self.data)["cell"])) if len(rows) else []
        self.measured = [one for one in self.ledgers if len(one.processes)]
        self.fits = self._fits()

    def _ledger(self, cell: str) -> Ledger:
        part = self.data[self.data["cell"] == cell]
        given = part[[*Settings.model_fields]].to_dict("records")[0]
        # A count that is not always given is a float in the frame.
        settings = Settings.model_validate(
            {key: None if missing(value) else value for key, value in given.items()}, strict=False
        )
        processes = fr.ok(part).drop_duplicates("process")
        medians = processes[list(fr.PARTS.values())].median()
        both = self._foretold(settings)
        sides = [both.host.model_dump(), both.gpu.model_dump()] if both else []
        predicted = {part: float(sum(s[name] for s in sides)) for part, name in fr.PARTS.items()}
        return Ledger(
            cell=cell,
            settings=settings,
            processes=processes,
            ended=fr.status_words(part),
            predicted=predicted if both else {},
            predicted_vram_bytes=both.gpu.total_bytes if both else None,
            allocated={} if medians.isna().any() else dict(zip(fr.PARTS, medians, strict=True)),
        )

    def _foretold(self, settings: Settings) -> Prediction | None:
        if self._foretell is None:
            return None
        try:
            return self._foretell(settings)
        except NotForetoldError as why:
            self.why_not_predicted = escape(str(why))
            return None

    def beside(self) -> list[float]:
        """Return what is resident at the end beside the model, of each cell that tells."""
        each = [places for one in self.measured if (places := one.resident("after_last"))]
        return [sum(places[place] for place in BESIDE) for places in each]

    def _fits(self) -> dict[str, Fit]:
        foretell, unknown = self._foretell, bool(self.why_not_predicted) or self.data.empty
        if not self.budget or self.header is None or foretell is None or unknown:
            return {}
        file_bytes = (self.info.get("model") or {}).get("size_bytes") or self.header.file_bytes
        budget_bytes = size_bytes("budget", self.budget, lambda: int(file_bytes))
        if self.on == "cpu":
            budget_bytes -= round(max(self.beside(), default=0.0))
        model, header = str(self.data["model"].iloc[0]), self.header
        return {
            one.cell: fit_of(model, header, one.settings, budget_bytes, self.on, foretell)
            for one in self.ledgers
        }


def answer(view: View) -> Answer:
    """Answer how well memory was predicted, what the first answer touches, and what fits."""
    if nothing := no_answer(view.data):
        return nothing
    predicted, line = _prediction(view)
    grown = [one for one in view.measured if one.growth().n]
    most = max(grown, key=lambda one: one.growth().median, default=None)
    sentences = [predicted, *_first_generation(most), _beside(view), _budget(view)]
    if most is not None:
        line += f"; the first generation adds {phrases.median(most.growth(), 'MiB')}"
    if fits := view.fits.values():
        line += f"; {sum(map(bool, fits))} of {several(len(fits), 'cell')} fit the budget"
    fewest = min(len(one.processes) for one in view.measured)
    sure = f"{several(fewest, 'process', 'processes')} per cell"
    return Answer(line, "measured", sure, tuple(filter(None, sentences)))


def _prediction(view: View) -> tuple[str, str]:
    """Say how near the prediction came: as a sentence, and in a few words."""
    if why := view.why_not_predicted:
        return f"What the model takes is **{NOT_FORETOLD}**: {why}.", NOT_FORETOLD
    known = [one for one in view.measured if one.ratio == one.ratio]
    if not known:
        unknown = "what llama.cpp allocated is not known"
        return f"How well memory is predicted is **not known**: {unknown}.", unknown
    furthest = percent(max(abs(one.ratio - 1) for one in known))
    cache = [(one.predicted["KV cache"], one.allocated["KV cache"]) for one in known]
    equal = all(abs(a - b) <= GRAIN_BYTES for a, b in cache)
    near = "exactly" if equal else f"within {percent(max(abs(a / b - 1) for a, b in cache))}"
    sizes = [sum(one.allocated.values()) * MIB for one in known]
    sentence = (
        f"With {model_name(view.info)}, llama.cpp allocates {span(min(sizes), max(sizes), 'MiB')} "
        f"in {several(len(known), 'cell')}, which was predicted within "
        f"**{furthest}**, the KV cache {near}."
    )
    return sentence, f"predicted within {furthest}"


def _first_generation(most: Ledger | None) -> tuple[str, ...]:
    """Say what the first generation adds, in the cell where it adds most, and where that is."""
    if most is None:
        return ("What the first generation adds is **not known** on this system.",)
    whole, later = most.growth(), most.growth(first="after_first")
    then = f"the generations after it add {phrases.amount(later.median, 'MiB')}"
    if whole.median * MIB < 0.5:
        return (f"The first generation adds **nothing** that is resident; {then}.",)
    added = {place: most.growth(place).median for place in PLACES}
    told = [
        f"{phrases.amount(size, 'MiB')} in {PLACES[place]}"
        for place, size in sorted(added.items(), key=lambda item: -item[1])
        if size >= TOLD_SHARE * whole.median
    ]
    where = enumerate_words(told, len(told)) if told else "where that is, the system does not tell"
    sentence = (
        f"The first generation adds {phrases.estimate(whole, 'MiB')} to what the process holds in "
        f"RAM ({escape(most.cell)}, where it adds most): {where}."
    )
    touched, compute = added["engine"], most.allocated.get("compute")
    if compute and touched > 0.5 * whole.median:
        then = (
            f"That is mostly memory that was allocated before and is touched now, "
            f"{percent(touched / compute)} of a compute buffer of "
            f"{phrases.amount(compute, 'MiB')}; {then}"
        )
    return sentence, then[0].upper() + then[1:] + "."


def _budget(view: View) -> str:
    """Say which cells fit the budget, and up to which context."""
    fits, context = list(view.fits.values()), code("n_ctx")
    if not fits:
        return ""
    memory = "VRAM" if view.on == "gpu" else "RAM"
    edges = {fit.settings.n_ubatch: fit.largest_n_ctx for fit in fits}
    each = [
        (f"{context} up to {edge:,}" if edge else f"no {context}")
        + f" with {code('n_ubatch')} {batch or 'of the engine'}"
        for batch, edge in edges.items()
    ]
    return (
        f"A budget of {escape(view.budget)} leaves {phrases.amount(fits[0].budget_bytes, 'MiB')} "
        f"of {memory} for the model: **{sum(map(bool, fits))} of {several(len(fits), 'cell')} "
        f"fit** by the prediction, and {enumerate_words(each)} would."
    )


def _beside(view: View) -> str:
    """Return the caveat: what no prediction holds."""
    if not (own := view.beside()):
        return "What Python and the libraries take beside the model is in no prediction."
    taken = span(min(own) * MIB, max(own) * MIB, "MiB")
    return f"Python and the libraries take {taken} beside the model, which is in no prediction."


def table(view: View) -> pd.DataFrame:
    """Return every cell as a column: its parts predicted and allocated, and what is resident."""
    columns: dict[str, dict[str, str]] = {}
    for one in view.ledgers:
        cells = {"trials": one.ended}
        for part in fr.PARTS:
            cells[f"{part}, MiB"] = _pair(one.predicted.get(part), one.allocated.get(part))
        if view.on == "gpu":
            column, word, _ = fr.memory_choice(one.processes)
            taken = one.processes[column].median() if word == "VRAM" else None
            cells["of all this in VRAM, MiB"] = _pair(one.predicted_vram_bytes, taken)
        cells["predicted / allocated"] = f"{one.ratio:.3f}" if one.ratio == one.ratio else "–"
        for phase, name in PHASES.items():
            whole = estimate(one.processes[f"rss_{phase}_bytes"].dropna())
            cells[f"resident, {name}, MiB"] = phrases.short(whole, "MiB")
        cells["the first generation adds, MiB"] = phrases.short(one.growth(), "MiB")
        for place, words in PLACES.items():
            cells[f"… in {words}, MiB"] = phrases.median(one.growth(place).times(MIB))
        later = one.growth(first="after_first")
        cells["later generations add, MiB"] = phrases.short(later, "MiB")
        if view.budget:
            fit = view.fits.get(one.cell)
            left = NOT_FORETOLD if fit is None else phrases.amount(fit.margin_bytes * MIB)
            edge = NOT_FORETOLD if fit is None else f"{fit.largest_n_ctx or 'none'}"
            cells |= {"left of the budget, MiB": left, "largest n_ctx that fits": edge}
        columns[one.cell] = cells
    caption = f"Parts: predicted / allocated. Places: medians. {phrases.BRACKETS}"
    return tables.captioned(pd.DataFrame(columns).rename_axis("").reset_index(), caption)


def _pair(predicted: float | None, allocated: float | None) -> str:
    before = NOT_FORETOLD if predicted is None else phrases.amount(predicted * MIB)
    return f"{before} / {'–' if allocated is None else phrases.amount(allocated * MIB)}"


MOST_CELLS = 4
"""Of more cells than that the first and the last are drawn; the others are left to the table."""
PART_COLOURS = dict(zip(fr.PARTS, style.PART_COLOURS, strict=True))
PLACE_COLOURS = dict(
    zip(PLACES, ("#27375f", "#5c86b4", "#8fc1b5", "#d98f4e", "#b9bfc9", "#e2e5ea"), strict=True)
)


@style.styled
def figure(view: View, ax: Axes | None = None) -> Axes:
    """Draw each cell's memory as predicted, as allocated, and as resident in three phases."""
    own, every = ax is None, view.ledgers
    shown = every if len(every) <= MOST_CELLS else [every[0], every[-1]]
    ax = ax or style.new_axes(8.0, 1.3 + 1.55 * max(1, len(shown)))
    ax.set_title("Memory: predicted, allocated, resident")
    if not view.measured:
        return style.say_unmeasured(ax, view.data)
    at, ticks, reach = 0.0, [], 0.0
    for one in shown:
        ax.text(0, at - 0.75, one.cell, fontsize=9.5, fontweight="bold", va="center")
        for label, parts, colours in _bars(one):
            end = fig.stack(ax, at, parts, colours, thickness=0.66, lying=True)
            layout.write(ax, number(end), (end, at), (4, 0), fontsize=9)
            ticks.append((at, label))
            at, reach = at + 0.82, max(reach, end)
        if one.processes.empty:
            style.hatch_box(ax, 0, at - 0.33, reach / 2, 0.66, one.ended)
            ticks.append((at, "measured"))
            at += 0.82
        at += 1.0
    layout.rows(ax, ticks, -1.2, at - 1.1)
    ax.set_xlim(0, reach * 1.1)
    ax.set_xlabel("MiB; medians over processes")
    _name_colours(ax)
    if left_out := len(every) - len(shown):
        style.say_above(ax, f"More cells, in the table: {left_out}.", own)
    style.say_below(ax, style.say_failures(view.data), own)
    return ax


def _bars(one: Ledger) -> list[tuple[str, dict[str, float], dict[str, str]]]:
    """Return what is known of a cell, a bar each: its label, its parts in MiB, their colours."""
    bars = [("predicted", one.predicted, PART_COLOURS), ("allocated", one.allocated, PART_COLOURS)]
    bars += [(f"resident, {name}", one.resident(at), PLACE_COLOURS) for at, name in PHASES.items()]
    return [
        (label, {name: parts[name] * MIB for name in colours}, colours)
        for label, parts, colours in bars
        if parts
    ]


def _name_colours(ax: Axes) -> None:
    """Name the parts of what is allocated and the places of what is resident, on the right."""
    places = {PLACES[place]: colour for place, colour in PLACE_COLOURS.items()}
    entries = {"predicted, allocated:": "none", **PART_COLOURS, "resident:": "none", **places}
    handles = [Patch(facecolor=colour, label=name) for name, colour in entries.items()]
    ax.legend(handles=handles, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.02))
