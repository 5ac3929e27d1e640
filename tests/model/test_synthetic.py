"""Synthetic models: exact files, honest sizes, and a tokenizer that the real engine accepts."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest

from llm_latency.engine.timed import TimedModel
from llm_latency.errors import LabError
from llm_latency.model import header, recipe, synthetic, vocabulary
from llm_latency.plan.settings import Settings

SMALL = synthetic.Shape(2, 64, 2, 1, 96, 600, 512)
TINY = synthetic.SHAPES["tiny"]

ENGLISH = """\
The old bridge at the edge of the village had carried carts for two hundred years before anyone
thought of measuring it. When the engineers finally came, with their lamps and their notebooks,
they found that the middle arch had moved by less than the width of a hand. "It will stand for
another century," said the youngest of them, "if people stop driving lorries over it." The council
listened politely, thanked everyone, and decided to put up a small sign.

A language model reads a prompt once and then writes its answer one token at a time. Reading is
fast, because many tokens are handled together; writing is slow, since every new token needs all
the weights to pass through the processor again. That is why a short question with a long answer
takes more time than a long question with a short answer, and why memory speed matters more than
the number of cores.

Bees do not see the world as we do. They notice colours that our eyes miss, and a plain white
petal may carry bright lines that point the way to the nectar. A worker that finds a rich patch of
clover flies home and dances on the comb; the angle of her dance gives the direction, and its
length tells the others how far they must fly.

Please review the attached contract before Thursday. Two points need your attention: the notice
period has grown from one month to three, and clause seven now lets the supplier raise prices
twice a year. Neither change was agreed in our meeting."""

FRENCH = """\
Le vieux pont, au bout du village, portait des charrettes depuis deux cents ans quand on s'avisa
enfin de le mesurer. Les ingénieurs arrivèrent un matin d'hiver avec leurs lampes et leurs
carnets ; ils trouvèrent que l'arche du milieu avait bougé de moins d'une largeur de main. « Il
tiendra encore un siècle, dit le plus jeune, si les camions passent ailleurs. » Le conseil écouta
poliment, remercia tout le monde et décida de poser un petit panneau.

Un modèle de langue lit la question d'un seul coup, puis écrit sa réponse mot après mot. Lire va
vite, parce que beaucoup de jetons sont traités ensemble ; écrire est lent, car chaque nouveau
jeton oblige à relire tous les poids du modèle. Voilà pourquoi une question courte suivie d'une
longue réponse demande plus de temps que le contraire, et pourquoi la vitesse de la mémoire compte
davantage que le nombre de processeurs.

Les abeilles ne voient pas le monde comme nous. Elles distinguent des couleurs qui nous échappent,
et un simple pétale blanc peut porter des lignes brillantes qui montrent le chemin du nectar.
L'ouvrière qui découvre un beau champ de trèfle rentre à la ruche et danse sur les rayons ;
l'angle de sa danse donne la direction, sa durée indique aux autres la distance à parcourir.

Merci de relire le contrat ci-joint avant jeudi. Deux points méritent votre attention : le préavis
est passé d'un mois à trois, et l'article sept permet maintenant au fournisseur d'augmenter ses
prix deux fois par an."""

AWKWARD = [
    "Où est l'œuvre naïve ? Ça dépend : à Noël, l'été n'est qu'un rêve… ÉÀÇ",
    "  spaces around ",
    "tabs\tand\r\nline ends\n\n\n  indented   spaces ",
    "🙂👩‍🔬 flags 🇫🇷, 漢字, Ελληνικά, кириллица, 100 €, x²\u00a0=\u202f4",
    "if (a[0] != '<s>') { return \"</s>\" | `b` ^ ~c; }  # 50 %",
]

# Loads models in a process of its own, because llama.cpp's log callback is one per process.
ENGINE = """
import ctypes, json, os, sys
import llama_cpp
import numpy as np

job = json.loads(sys.stdin.read())
log = []

@llama_cpp.llama_log_callback
def keep(level, text, _):
    log.append([level, text.decode(errors="replace")])

llama_cpp.llama_log_set(keep, ctypes.c_void_p(0))
answers = []
for path in job["paths"]:
    log.clear()
    # verbose, or the package sends standard output to nowhere and filters the log.
    model = llama_cpp.Llama(
        path, n_ctx=256, n_batch=64, n_threads=1, n_threads_batch=1, verbose=True
    )
    loading = [line for line in log if line[0] in (3, 4)]
    tokens = [model.tokenize(text.encode(), special=False) for text in job["texts"]]
    written, finite, spread = [], [], []
    for token in model.generate(model.tokenize(b"Bonjour, my dear"), temp=0.0, top_k=1):
        logits = np.ctypeslib.as_array(
            llama_cpp.llama_get_logits(model.ctx), shape=(model.n_vocab(),)
        )
        finite.append(bool(np.isfinite(logits).all()))
        spread.append(float(logits.std()))
        written.append(token)
        if len(written) == 8:
            break
    answers.append({
        "loading": loading,
        "counts": [len(each) - 1 for each in tokens],
        "texts": [model.detokenize(each).decode() for each in tokens],
        "bytes": [sum(3 <= t < 259 for t in each) for each in tokens],
        "written": written,
        "written_text": model.detokenize(written).decode(),
        "finite": finite,
        "spread": spread,
        "eos": model.token_eos(),
        "eog": [t for t in range(model.n_vocab())
                if llama_cpp.llama_token_is_eog(model._model.vocab, t)],
        "chat": model.create_chat_completion(
            [{"role": "user", "content": "Bonjour"}], max_tokens=2
        )["usage"]["completion_tokens"],
        "description": model.metadata["general.description"],
        "parameters": llama_cpp.llama_model_n_params(model.model),
    })
    model.close()
with open(job["out"], "w", encoding="utf-8") as file:
    json.dump(answers, file)
"""


def ask_engine(tmp_path: Path, paths: list[Path], texts: list[str]) -> list[dict[str, Any]]:
    job = {"paths": [str(path) for path in paths], "texts": texts, "out": str(tmp_path / "out")}
    child = subprocess.run(
        [sys.executable, "-c", ENGINE],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        env={**os.environ, "PYTHONUTF8": "1"},
    )
    assert child.returncode == 0, child.stderr[-2000:]
    answers: list[dict[str, Any]] = json.loads((tmp_path / "out").read_text(encoding="utf-8"))
    return answers


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    source = str(Path(synthetic.__file__).resolve().parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
    )


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def tiny(cache: Path) -> Path:
    return synthetic.model_path("synthetic:tiny", cache_dir=cache)


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("synthetic:tiny", "synthetic:tiny:q8_0"),
        ("synthetic:7b:q4_0", "synthetic:7b:q4_0"),
        ("SYNTHETIC:125M:F16", "synthetic:125m:f16"),
        (" Synthetic:1B ", "synthetic:1b:q8_0"),
    ],
)
def test_names_are_taken_apart(name: str, canonical: str) -> None:
    assert synthetic.is_synthetic(name)
    parsed = synthetic.parse_name(name)
    assert parsed.canonical == canonical
    assert parsed.shape == synthetic.SHAPES[canonical.split(":")[1]]
    assert synthetic.parse_name(parsed.canonical) == parsed


@pytest.mark.parametrize("name", ["model.gguf", "/models/synthetic/tiny.gguf", "tiny", ""])
def test_other_names_are_not_synthetic(name: str) -> None:
    assert not synthetic.is_synthetic(name)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("synthetic:tinny", ["'tinny'", "tiny, 125m, 1b, 7b", "did you mean 'tiny'"]),
        ("synthetic:", ["''", "tiny, 125m, 1b, 7b"]),
        ("synthetic:7b:q4_1", ["'q4_1'", "q8_0, q4_0, f16", "did you mean 'q4_0'"]),
        ("synthetic:7b:", ["''", "q8_0, q4_0, f16"]),
        ("synthetic:7b:q4_0:x", ["'synthetic:7b:q4_0:x'", "synthetic:SHAPE:QUANTISATION"]),
        ("tiny", ["'tiny'", "synthetic:SHAPE"]),
    ],
)
def test_wrong_names_are_refused_in_one_helpful_sentence(name: str, parts: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        synthetic.parse_name(name)
    sentence = str(caught.value)
    for part in parts:
        assert part in sentence
    assert sentence.endswith(".")
    assert ". " not in sentence and "\n" not in sentence
    assert re.search(r"for example 'synthetic:tiny", sentence)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_embd": 100}, "n_embd=100 .* multiple of 32"),
        ({"n_ff": 33}, "n_ff=33 .* multiple of 32"),
        ({"n_head": 3}, "n_head=3 "),
        ({"n_head": 64}, "n_head=64 "),  # heads of width one cannot be rotated
        ({"n_head_kv": 4}, "n_head_kv=4 does not divide n_head=2"),
        ({"n_vocab": 511}, "at least 512"),
        ({"n_layer": 0}, "n_layer=0 "),
        ({"n_expert": 1}, "n_expert=1 .* give 2 or more"),
        ({"n_expert": -1}, "n_expert=-1 "),
        ({"window": 64}, "give tied=True"),
    ],
)
def test_impossible_shapes_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthetic.Shape(**{**vars(SMALL), **change})


# --- sizes -----------------------------------------------------------------------------------


def test_sizes_are_what_the_names_say() -> None:
    millions = {name: shape.n_parameters / 1e6 for name, shape in synthetic.SHAPES.items()}
    assert 10 < millions["tiny"] < 16
    assert 120 < millions["125m"] < 130
    assert 1050 < millions["1b"] < 1150
    assert synthetic.SHAPES["7b"].n_parameters == 7_241_732_096  # Mistral 7B's, exactly
    assert synthetic.SHAPES["7b"].n_embd_kv == 1024


def test_tiny_is_a_small_file(tiny: Path) -> None:
    assert 10e6 < tiny.stat().st_size < 20e6


@pytest.mark.parametrize(("name", "bits"), [("q8_0", 8.5), ("q4_0", 4.5), ("f16", 16.0)])
def test_bytes_follow_the_quantisation(tmp_path: Path, name: str, bits: float) -> None:
    path = tmp_path / "model.gguf"
    synthetic.write_model(path, SMALL, name)
    reader = gguf.GGUFReader(path)
    kinds = {tensor.tensor_type.name.lower() for tensor in reader.tensors if len(tensor.shape) > 1}
    assert kinds == {name}
    for tensor in reader.tensors:
        n_bits = 32 if len(tensor.shape) == 1 else bits
        assert tensor.n_bytes == tensor.n_elements * n_bits / 8
    last = reader.tensors[-1]
    padded = -(-int(last.n_bytes) // 32) * 32
    assert path.stat().st_size == last.data_offset + padded


def test_header_of_125m(cache: Path) -> None:
    path = synthetic.model_path("synthetic:125m:q4_0", cache_dir=cache)
    assert path.name == f"synthetic-125m-q4_0-v{synthetic.RECIPE_VERSION}.gguf"
    reader = gguf.GGUFReader(path)
    shape = synthetic.SHAPES["125m"]
    expected = {
        "general.architecture": "llama",
        "general.name": "synthetic-125m (random weights)",
        "general.description": "Random weights: true speed and memory, meaningless text",
        "general.file_type": int(gguf.LlamaFileType.MOSTLY_Q4_0),
        "llama.block_count": shape.n_layer,
        "llama.embedding_length": shape.n_embd,
        "llama.attention.head_count": shape.n_head,
        "llama.attention.head_count_kv": shape.n_head_kv,
        "llama.feed_forward_length": shape.n_ff,
        "llama.context_length": shape.n_ctx_train,
        "llama.vocab_size": shape.n_vocab,
        "llama.rope.dimension_count": 64,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": True,
        "llm_latency.file_bytes": path.stat().st_size,
    }
    assert {key: reader.fields[key].contents() for key in expected} == expected
    assert len(reader.fields["tokenizer.ggml.tokens"].contents()) == shape.n_vocab
    assert sum(int(tensor.n_elements) for tensor in reader.tensors) == shape.n_parameters
    sizes = {tensor.name: tuple(map(int, tensor.shape)) for tensor in reader.tensors}
    assert sizes["blk.11.ffn_down.weight"] == (shape.n_ff, shape.n_embd)
    assert sizes["blk.0.attn_k.weight"] == (shape.n_embd, 256)


# --- weights ---------------------------------------------------------------------------------


@pytest.mark.engine
@pytest.mark.parametrize(
    ("kind", "architecture", "told"),
    [
        ({"n_expert": 8}, "llama", "n_expert_used         = 2"),
        ({"window": 64, "tied": True}, "gemma2", "n_swa                 = 64"),
        ({"tied": True}, "llama", "n_expert              = 0"),
    ],
)
@pytest.mark.parametrize("quantisation", synthetic.QUANTISATIONS)
def test_other_kinds_of_models_are_run(
    tmp_path: Path, kind: dict[str, Any], architecture: str, told: str, quantisation: str
) -> None:
    shape, path = replace(SMALL, **kind), tmp_path / "m.gguf"
    synthetic.write_model(path, shape, quantisation)
    found = header.read_header(path)
    assert (found.architecture, found.sliding_window or 0) == (architecture, shape.window)
    assert any(t.name == "output.weight" for t in found.tensors) != shape.tied
    with TimedModel(path, Settings(n_ctx=256, n_threads=1)) as model:
        assert any(told in text for _, text in model.log.lines)
        answer = model.generate("Bonjour", max_tokens=8)
    assert (answer.generated_tokens, answer.finish_reason) == (8, "length")
    assert answer.text.isprintable()


@pytest.mark.engine
@pytest.mark.parametrize("quantisation", synthetic.QUANTISATIONS)
def test_answers_end_by_themselves_where_the_end_is_likely(
    tmp_path: Path, quantisation: str
) -> None:
    ended = {}
    for ends in (False, True):
        path = tmp_path / f"{ends}.gguf"
        synthetic.write_model(path, replace(SMALL, ends=ends), quantisation)
        with TimedModel(path, Settings(n_ctx=512, n_threads=1)) as model:
            answers = [
                model.generate(f"{n} and {n * n}", max_tokens=200, length="natural")
                for n in range(12)
            ]
            fixed = model.generate("1 and 1", max_tokens=200, length="fixed")
        ended[ends] = sum(answer.finish_reason == "stop" for answer in answers)
        assert fixed.generated_tokens == 200
    assert ended[False] == 0 < ended[True]


@pytest.mark.parametrize("quantisation", synthetic.QUANTISATIONS)
def test_weights_are_even_and_of_the_right_size(tmp_path: Path, quantisation: str) -> None:
    path = tmp_path / "model.gguf"
    shape = synthetic.Shape(1, 256, 4, 2, 512, 1024, 512)
    synthetic.write_model(path, shape, quantisation)
    expected = {"token_embd": 1.0, "ffn_down": 512**-0.5, "attn_k": 256**-0.5}
    for tensor in gguf.GGUFReader(path).tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
        if values.ndim == 1:
            assert (values == 1.0).all()
            continue
        if tensor.name == "output.weight":
            assert (values[: vocabulary.N_UNWRITTEN] == 0).all()
            values = values[vocabulary.N_UNWRITTEN :]
            assert (values.std(axis=1) > 0).all()
        assert np.isfinite(values).all()
        part = next((part for part in expected if part in tensor.name), None)
        if part:
            assert values.std() == pytest.approx(expected[part], rel=0.02)
        # Blocks of 32 with one sign each: far from zero only if the signs were not random.
        assert abs(values.mean()) < 4 * values.std() / math.sqrt(values.size / 4)
        rows = {row.tobytes() for row in values}
        assert len(rows) == len(values), "rows repeat"


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.gguf", "b.gguf", "c.gguf")]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        synthetic.write_model(path, SMALL, "q8_0", seed=seed)
    first, second, third = (path.read_bytes() for path in paths)
    assert first == second
    assert len(third) == len(first) and third != first


RECIPE = {
    1: {
        "q8_0": "25a64c935195392f",
        "q4_0": "63d4b1c2db2f12a2",
        "f16": "ed476bcec5164357",
        "vocabulary": "57a9367d9f23e80d",
    }
}


@pytest.mark.parametrize("quantisation", synthetic.QUANTISATIONS)
def test_weights_are_the_same_on_every_machine(tmp_path: Path, quantisation: str) -> None:
    path = tmp_path / "model.gguf"
    synthetic.write_model(path, SMALL, quantisation)
    weights = path.read_bytes()[gguf.GGUFReader(path).data_offset :]
    assert digest(weights)[:16] == RECIPE[synthetic.RECIPE_VERSION][quantisation], (
        "The recipe changed: raise RECIPE_VERSION, or cached files will differ from new ones."
    )


def test_vocabulary_is_the_same_on_every_machine() -> None:
    tokens = "\n".join(vocabulary.build_vocabulary(TINY.n_vocab).tokens)
    recipe = RECIPE[synthetic.RECIPE_VERSION]
    assert digest(tokens.encode())[:16] == recipe["vocabulary"], (
        "The vocabulary changed: raise RECIPE_VERSION, or cached files will differ from new ones."
    )


# --- writing ---------------------------------------------------------------------------------


def test_a_whole_file_is_kept_and_a_broken_one_is_written_again(tmp_path: Path) -> None:
    path = synthetic.model_path("synthetic:tiny:q4_0", cache_dir=tmp_path)
    whole = path.read_bytes()
    written = path.stat().st_mtime_ns
    assert synthetic.model_path("SYNTHETIC:TINY:Q4_0", cache_dir=tmp_path) == path
    assert path.stat().st_mtime_ns == written
    for broken in (whole[:-1], whole[:100], b"", whole + b"\0", b"not a model" * 100):
        path.write_bytes(broken)
        synthetic.model_path("synthetic:tiny:q4_0", cache_dir=tmp_path)
        assert path.read_bytes() == whole


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def write(path: Path, *arguments: object, **named: object) -> None:
        asked.append(path)

    monkeypatch.setattr(synthetic, "write_model", write)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: f"/home/{name}")
    monkeypatch.setenv("LLM_LATENCY_CACHE", str(tmp_path / "elsewhere"))
    assert synthetic.model_path("synthetic:1b").parent == tmp_path / "elsewhere"
    assert synthetic.model_path("synthetic:1b", cache_dir=tmp_path).parent == tmp_path
    monkeypatch.delenv("LLM_LATENCY_CACHE")
    assert synthetic.model_path("synthetic:1b").parent == Path("/home/llm-latency-lab")
    assert len(asked) == 3


def test_a_full_disk_is_noticed_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=4_000_000_000))
    with pytest.raises(LabError, match=r"needs 4\.08 GB in .* has 4\.00 GB free: free some space"):
        synthetic.model_path("synthetic:7b:q4_0", cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert synthetic.model_path("synthetic:tiny:q4_0", cache_dir=tmp_path).exists()


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"old")

    def interrupted(*arguments: object) -> Any:
        yield np.zeros(32, dtype=np.uint8)
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synthetic.write_model(path, SMALL, "q8_0")
    assert [each.name for each in tmp_path.iterdir()] == ["model.gguf"]
    assert path.read_bytes() == b"old"


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path: Path) -> None:
    old, recent, other = (
        tmp_path / name for name in (".m.gguf.1.part", ".m.gguf.2.part", ".other.gguf.1.part")
    )
    for partial in (old, recent, other):
        partial.write_bytes(b"x")
    for partial in (old, other):
        os.utime(partial, (time.time() - 90_000,) * 2)
    synthetic.write_model(tmp_path / "m.gguf", SMALL, "q8_0")
    assert not old.exists() and recent.exists() and other.exists()


def test_two_processes_may_write_the_same_model_at_once(tmp_path: Path, tiny: Path) -> None:
    code = """
import contextlib, sys, time
from pathlib import Path
from llm_latency.model import synthetic
print(flush=True)
while not Path(sys.argv[1], "go").exists():
    time.sleep(0.001)
for _ in range(5):
    path = synthetic.model_path("synthetic:tiny", cache_dir=Path(sys.argv[1]))
    with contextlib.suppress(OSError):
        path.unlink()
synthetic.model_path("synthetic:tiny", cache_dir=Path(sys.argv[1]))
"""
    children = [python(code, str(tmp_path)) for _ in range(2)]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
    (tmp_path / "go").touch()
    expected = tiny.read_bytes()
    path = tmp_path / tiny.name
    while any(child.poll() is None for child in children):
        try:
            found = path.read_bytes()
        except (FileNotFoundError, PermissionError):
            continue
        assert found == expected, "a reader saw a file that was not whole"
    for child in children:
        _, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors
    assert path.read_bytes() == expected
    assert sorted(each.name for each in tmp_path.iterdir()) == ["go", tiny.name]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads VmHWM from /proc")
def test_memory_does_not_follow_the_size_of_the_model(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from llm_latency.model import synthetic
synthetic.write_model(Path(sys.argv[1]), synthetic.SHAPES["125m"], "f16")
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""
    child = python(code, str(tmp_path / "model.gguf"))
    out, errors = child.communicate(timeout=60)
    assert child.returncode == 0, errors
    assert (tmp_path / "model.gguf").stat().st_size > 240e6
    assert int(out) * 1024 < 150e6


def test_progress_is_shown_only_when_asked(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    synthetic.write_model(tmp_path / "model.gguf", SMALL, "q8_0", name="quiet")
    assert capfd.readouterr() == ("", "")
    synthetic.write_model(tmp_path / "model.gguf", SMALL, "q8_0", name="shown", progress=True)
    assert "Writing shown: 100%" in capfd.readouterr().err


def test_importing_the_room_is_light() -> None:
    heavy = "{'llama_cpp', 'pandas', 'matplotlib', 'gguf', 'tqdm'}"
    code = f"import sys, llm_latency.model.synthetic; print(sorted({heavy} & set(sys.modules)))"
    out, errors = python(code).communicate(timeout=60)
    assert out.strip() == "[]", errors


# --- vocabulary ------------------------------------------------------------------------------


def test_vocabulary_is_sound() -> None:
    large = vocabulary.build_vocabulary(32000)
    small = vocabulary.build_vocabulary(vocabulary.MIN_SIZE)
    assert len(large.tokens) == len(large.scores) == len(large.types) == 32000
    assert len(set(large.tokens)) == 32000
    assert large.tokens[: vocabulary.MIN_SIZE] == small.tokens
    assert large.tokens[:5] == ("<unk>", "<s>", "</s>", "<0x00>", "<0x01>")
    assert large.types[:4] == (2, 3, 3, 6) and set(large.types[259:]) == {1}
    # llama-cpp-python turns tokens back into text through a buffer of 32 bytes.
    assert max(len(token.encode()) for token in large.tokens) <= 32
    written = "".join(large.tokens[vocabulary.N_UNWRITTEN :])
    assert written.replace("\u00a0", "").replace("\u202f", "").isprintable()
    with pytest.raises(ValueError, match="at least 512"):
        vocabulary.build_vocabulary(511)


def test_tiny_knows_every_listed_word() -> None:
    tiny, large = (set(vocabulary.build_vocabulary(n).tokens) for n in (TINY.n_vocab, 32000))
    assert set(vocabulary._word_pieces()) <= tiny <= large
    assert {"▁mesurer", "▁memory", "▁The", "▁l'", "ement"} <= tiny


# --- the engine ------------------------------------------------------------------------------


@pytest.mark.engine
def test_llama_cpp_runs_tiny(tmp_path: Path, tiny: Path) -> None:
    (answer,) = ask_engine(tmp_path, [tiny], [ENGLISH, FRENCH, *AWKWARD])
    assert answer["loading"] == [], "warnings or errors while loading"
    for number, text in enumerate((ENGLISH, FRENCH)):
        count, in_bytes = answer["counts"][number], answer["bytes"][number]
        assert 1.3 <= count / len(text.split()) <= 1.6
        assert in_bytes == text.count("\n"), "only line ends are bytes"
    assert answer["texts"] == [ENGLISH, FRENCH, *AWKWARD]
    assert all(answer["finite"])
    assert all(2 < spread < 8 for spread in answer["spread"])
    assert len(set(answer["written"])) >= 4, "greedy text is one token for ever"
    assert min(answer["written"]) >= vocabulary.N_UNWRITTEN
    assert answer["written_text"].isprintable()
    assert answer["eog"] == [answer["eos"]] == [vocabulary.END]
    assert answer["chat"] == 2
    assert answer["parameters"] == TINY.n_parameters
    assert answer["description"].startswith("Random weights")


@pytest.mark.engine
def test_llama_cpp_runs_other_shapes_and_quantisations(tmp_path: Path) -> None:
    shapes = [
        synthetic.Shape(1, 32, 1, 1, 32, vocabulary.MIN_SIZE, 256),
        synthetic.Shape(3, 192, 6, 2, 544, 1001, 300),
        synthetic.Shape(6, 256, 4, 4, 256, 3000, 4096),
    ]
    paths = []
    for number, shape in enumerate(shapes):
        for quantisation in synthetic.QUANTISATIONS:
            paths.append(tmp_path / f"{number}-{quantisation}.gguf")
            synthetic.write_model(paths[-1], shape, quantisation)
    for path, answer in zip(paths, ask_engine(tmp_path, paths, AWKWARD), strict=True):
        assert answer["loading"] == [], path.name
        assert all(answer["finite"]), path.name
        assert answer["texts"] == AWKWARD, path.name
        assert len(answer["written"]) == 8, path.name
