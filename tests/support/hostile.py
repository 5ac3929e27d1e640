"""A stored run whose every string from outside tries to be more than text.

The model's file has a hostile name and a hostile header; machine, engine, reasons and warnings
are hostile too. The records are made up, everything that reads them is the lab's own.
"""

from __future__ import annotations

from pathlib import Path

from llm_latency import experiments
from llm_latency.model import names, synthetic
from llm_latency.model.weights import Shape
from llm_latency.plan.spec import Plan
from llm_latency.records.store import RunStore
from tests.support import factories

RUN_ID = "from-outside"
FILE = "<img src=x onerror='window.pwned=1'> $\\frac{ `x` [l](javascript:pwned=1) %s {{7*7}}.gguf"
"""A file may be called so; it cannot hold a slash."""
STRINGS = {
    "script": "<script>window.pwned = 2; document.title = 'taken'</script>",
    "image": '<img src="http://outside.example/x.png" onerror="window.pwned = 3">',
    "svg": '"><svg onload="window.pwned = 4"><a href="javascript:window.pwned = 5">here</a></svg>',
    "title": "</title></style></td></table></main></body><h1>A page of mine</h1>",
    "frame": "<iframe src='http://outside.example/'></iframe><base href='http://outside.example/'>",
    "style": "<style>body { display: none } @import 'http://outside.example/x.css';</style>",
    "markdown": "![seen](http://outside.example/seen.png) [l](http://outside.example/) **b** | a |",
    "address": "http://outside.example/ www.outside.example mailto:a@outside.example",
    "formula": "$\\frac{1}{ $$ \\(x\\) {{7*7}} ${7*7} #{7*7}",
    "terminal": "\x1b[31mred\x1b[0m \x1b]0;title\x07 bell\x08\x08",
    "turned": "abc \u202egnp.exe\u202c \u2066hidden\u2069 \u200bzero\ufeff",
    "nul": "before\x00after",
    "long": "w" * 3000,
    "entity": "&lt;b&gt; &#60;script&#62; &nbsp;&copy",
    "comment": "<!-- <script>window.pwned = 6</script> --> ]]> <![CDATA[x]]>",
}
EVERYTHING = " ~ ".join(STRINGS.values())


def model_file(folder: Path) -> Path:
    """Write a real model whose file's name and header are hostile."""
    path = folder / FILE
    shape = Shape(1, 64, 2, 2, 64, 512, 256)
    synthetic.write_model(path, shape, "q8_0", name=EVERYTHING)
    return path


def plan_of(path: Path) -> Plan:
    """Return the plan of the run."""
    return experiments.sweep(
        str(path),
        n_ctx=[512, 1024],
        n_batch=[128, 256],
        prompt_tokens=[64, 192],
        max_tokens=8,
        rounds=6,
        repeats=0,
        page_cache="as_is",
        run_id=RUN_ID,
    )


def stored_run(outputs: Path, models_folder: Path) -> RunStore:
    """Store the run, complete, with cells that failed in several ways."""
    path = model_file(models_folder)
    plan = plan_of(path)
    info = factories.info() | {
        "run_id": RUN_ID,
        "plan_id": plan.plan_id,
        "plan": plan.model_dump(mode="json"),
        "model": names.card(plan.model, path).model_dump() | {"notice": EVERYTHING},
        "engine": {
            "version": "0 " + EVERYTHING,
            "gpu_offload": False,
            "devices": [{"name": EVERYTHING, "description": EVERYTHING}],
        },
        "versions": {"llama_cpp_python": EVERYTHING},
    }
    info["machine"] |= {"cpu": EVERYTHING, "cpu_features": list(STRINGS.values())}
    store = RunStore.create(outputs / "runs" / RUN_ID, info)
    words = list(STRINGS.values())
    for number, trial in enumerate(plan.trials()):
        failure: factories.Failure | None = None
        if trial.settings.n_batch == 256 and trial.settings.n_ctx == 1024:
            failure = ("crashed", words[number % len(words)])
        elif trial.settings.n_batch == 256 and trial.workload.prompt_tokens == 192:
            failure = ("invalid", words[number % len(words)])
        made = factories.record(
            trial.settings,
            round=trial.round,
            order=trial.order,
            twin=trial.twin,
            model=trial.model,
            workload=trial.workload,
            start=trial.start,
            failure=failure,
            warnings=[EVERYTHING, words[number % len(words)]],
            more={"run_id": RUN_ID, "disturbed": [EVERYTHING], "system_info": EVERYTHING},
        )
        store.append(made)
    assert store.complete
    return store
