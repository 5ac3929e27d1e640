"""How often two equal engines are told apart, and how often a slower one is found.

``python -m benchmarks.engines`` carries out whole plans of the question ``engines``, each trial in
a fresh process: of one environment under two names, where a verdict of faster or slower is wrong,
and with ``--other NAME`` of the engine at home and that one, such as a build without AVX2::

    CMAKE_ARGS="-DGGML_AVX2=OFF -DGGML_FMA=OFF -DGGML_F16C=OFF -DGGML_BMI2=OFF" \
        python bootstrap.py --name no-avx2
    python -m benchmarks.engines --other no-avx2

It prints the verdicts of the second engine for a token, the first token and loading, and the
features of both builds. One thread, so that a core is left for the system.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llm_latency.machine import host, interpreters
from llm_latency.measure import engines
from llm_latency.measure.trial import carry_out, engine_card
from llm_latency.plan.spec import Plan
from llm_latency.questions.engines import TIMES, View, plan
from llm_latency.records.record import EngineCard
from llm_latency.records.rows import to_frame
from llm_latency.report import cards, phrases
from llm_latency.report.page import Rows
from tests.support import jobs


def measured(folder: Path, planned: Plan) -> View:
    """Carry out a plan, trial by trial, and return its view."""
    records = [carry_out(jobs.job(folder, one, timeout_s=120)) for one in planned.trials()]
    return View(Rows(to_frame(records), {"plan": planned.model_dump(mode="json")}))


def verdicts(name: str, names: Sequence[str], count: int, rounds: int, seed: int) -> None:
    """Measure so many plans of two engines, and print how often each verdict came."""
    found: dict[str, Counter[str]] = {word: Counter() for word in TIMES}
    changes: dict[str, list[float]] = {word: [] for word in TIMES}
    with tempfile.TemporaryDirectory() as place:
        for number in tqdm(range(count), desc=name, unit="plan"):
            planned = plan(
                engine=list(names), prompt_tokens=64, max_tokens=12, repeats=1, n_threads=1,
                rounds=rounds, seed=seed + number,
            )  # fmt: skip
            view = measured(Path(place), planned)
            each = {word: view.against(names[1], column) for word, column in TIMES.items()}
            for word, one in each.items():
                found[word][one.verdict] += 1
                changes[word].append(one.change)
            told = (f"{word} {phrases.change(one)}" for word, one in each.items())
            tqdm.write(f"{name}, seed {planned.seed}: {'; '.join(told)}")
    for word, tally in found.items():
        middle = sorted(changes[word])[len(changes[word]) // 2]
        print(f"{name}, {word}: {dict(tally)} of {count}; median change {middle:+.1%}", flush=True)


def features(other: str) -> None:
    """Print what both builds are."""
    with tempfile.TemporaryDirectory() as place:
        home = engine_card(Path(place) / "home.log")
        both = plan(engine=["home", other])
        info: dict[str, Any] = {
            "plan": both.model_dump(mode="json"),
            "engine": home.model_dump() if isinstance(home, EngineCard) else {},
            "machine": {"engine_build": host.engine_build()},
            "versions": host.versions(),
            "engines": engines.cards(both, Path(place)),
        }
    print(cards.engines(info).to_string(index=False), flush=True)


def main() -> None:
    """Measure, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="as the notebook")
    parser.add_argument("--equal", type=int, default=40, help="plans of one engine, two names")
    parser.add_argument("--slower", type=int, default=20, help="plans with --other")
    parser.add_argument("--other", help="an engine that is slower than the one at home")
    parser.add_argument("--seed", type=int, default=0, help="of the first plan's order")
    asked = parser.parse_args()
    other = asked.other and str(interpreters.interpreter(asked.other))
    with tempfile.TemporaryDirectory() as place:
        for name in ("first", "second"):
            (Path(place) / name).symlink_to(sys.prefix, target_is_directory=True)
        os.environ[interpreters.FOLDER_VARIABLE] = place
        if asked.equal:
            verdicts("equal", ("first", "second"), asked.equal, asked.rounds, asked.seed)
        if other:
            (Path(place) / asked.other).symlink_to(Path(other).parents[1])
            features(asked.other)
            verdicts(asked.other, ("home", asked.other), asked.slower, asked.rounds, asked.seed)


if __name__ == "__main__":
    main()
