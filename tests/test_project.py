"""The project's own files agree with each other, and bootstrap.py chooses what it should."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import platformdirs
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
ALL_X86 = {"sse4_2", "avx", "avx2", "bmi2", "fma", "f16c", "avx512f", "amx_tile"}
X86_SWITCHES = ("AVX", "AVX2", "BMI2", "FMA", "F16C")
PORTABLE = ["-DLLAVA_BUILD=OFF", "-DGGML_NATIVE=OFF", "-DGGML_SSE42=ON"]
PORTABLE += [f"-DGGML_{name}=ON" for name in X86_SWITCHES]


def load_bootstrap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "bootstrap.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bootstrap = load_bootstrap()


# --------------------------------------------------------------------------- the files


def locked(lock: str = LOCK) -> Iterator[tuple[Requirement, list[str]]]:
    """Every entry of the lock with its hashes."""
    for block in re.split(r"\n(?=\S)", lock):
        if block.startswith("#"):
            continue
        first, *rest = block.replace("\\\n", "\n").strip().splitlines()
        yield Requirement(first.strip()), [line.strip() for line in rest]


def direct() -> set[str]:
    """Names that pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    return {canonicalize_name(Requirement(line).name) for line in wanted}


def conda() -> dict[str, object]:
    loaded = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def conda_pins() -> dict[str, str]:
    dependencies = conda()["dependencies"]
    assert isinstance(dependencies, list)
    (lines,) = (entry["pip"] for entry in dependencies if isinstance(entry, dict))
    # What is wanted without its own dependencies is a step of its own.
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    lines = [*lines, *re.findall(r"^#\s+pip install --no-deps (\S+==\S+)$", text, re.MULTILINE)]
    requirements = [Requirement(line.split(" --")[0].strip()) for line in lines]
    return {canonicalize_name(r.name): str(r.specifier) for r in requirements}


def test_conda_lists_exactly_the_direct_dependencies() -> None:
    assert set(conda_pins()) == direct()


def test_lock_has_every_direct_dependency() -> None:
    assert direct() - {canonicalize_name(entry.name) for entry, _ in locked()} == set()


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_conda_pins_are_the_locks(system: str) -> None:
    dependencies = conda()["dependencies"]
    assert isinstance(dependencies, list)
    (python,) = (d.split("=")[1] for d in dependencies if str(d).startswith("python="))
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": system,
        "os_name": "nt" if system == "win32" else "posix",
    }
    pins: dict[str, str] = {
        canonicalize_name(entry.name): str(entry.specifier)
        for entry, _ in locked()
        if entry.marker is None or entry.marker.evaluate(environment)
    }
    assert conda_pins() == {name: pins[name] for name in direct()}


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_lock_pins_each_package_once_for_each_python(python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.8"}
    names = [
        canonicalize_name(entry.name)
        for entry, _ in locked()
        if entry.marker is None or entry.marker.evaluate(environment)
    ]
    assert len(names) == len(set(names))
    assert direct() <= set(names)


def test_lock_has_exact_versions_and_hashes_throughout() -> None:
    entries = list(locked())
    assert len(entries) > 50
    for entry, hashes in entries:
        assert [s.operator for s in entry.specifier] == ["=="], entry
        assert hashes, entry
        for line in hashes:
            assert re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line), entry


def test_engine_version_is_exact_in_pyproject_and_lock() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (version,) = re.findall(r'"llama-cpp-python==([\w.]+)"', text)
    assert bootstrap.lock_entry(LOCK)[0] == version


@pytest.mark.parametrize(
    "name",
    [
        "requirements.lock",
        "pyproject.toml",
        "environment.yml",
        "Makefile",
        "bootstrap.py",
        ".pre-commit-config.yaml",
        ".ci/run",
    ],
)
def test_no_address_in_the_set_up(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert re.findall(r"\w+://\S*|--?(?:extra-)?index-url\S*|--find-links\S*", text) == []


def test_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert re.findall(r"^([a-z-]+):.*?## \S", makefile, re.MULTILINE) == phony.split()


def test_git_keeps_outputs_and_models_out(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_bytes((ROOT / ".gitignore").read_bytes())
    names = ["outputs/runs/a/trials.jsonl", "outputs/sweep.html", "models/a.gguf", ".venv/x"]
    kept = ["outputs/.gitkeep", "notebooks/sweep.ipynb", "params/quick.yaml", ".ci/run"]
    for name in [*names, *kept]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    try:
        subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    command = ["git", "status", "--porcelain", "-uall"]
    status = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    untracked = {line[3:] for line in status.stdout.splitlines()}
    assert untracked == {*kept, ".gitignore"}


# --------------------------------------------------------------------------- bootstrap's flags


@pytest.mark.parametrize("machine", ["x86_64", "AMD64"])
def test_portable_flags_with_avx2(machine: str) -> None:
    assert bootstrap.engine_flags("portable", machine, ALL_X86) == PORTABLE


@pytest.mark.parametrize("lacking", ["avx", "avx2", "bmi2", "fma", "f16c"])
def test_portable_flags_without_one_of_them_turn_all_off(lacking: str) -> None:
    flags = bootstrap.engine_flags("portable", "x86_64", ALL_X86 - {lacking})
    assert flags[:3] == ["-DLLAVA_BUILD=OFF", "-DGGML_NATIVE=OFF", "-DGGML_SSE42=ON"]
    assert flags[3:] == [f"-DGGML_{name}=OFF" for name in X86_SWITCHES]


@pytest.mark.parametrize("machine", ["arm64", "aarch64", "ARM64"])
def test_portable_flags_on_arm_name_no_x86_feature(machine: str) -> None:
    flags = bootstrap.engine_flags("portable", machine, ALL_X86)
    assert flags == ["-DLLAVA_BUILD=OFF", "-DGGML_NATIVE=OFF"]


def test_native_flags() -> None:
    flags = bootstrap.engine_flags("native", "x86_64", ALL_X86)
    assert flags == ["-DLLAVA_BUILD=OFF", "-DGGML_NATIVE=ON"]


@pytest.mark.parametrize("engine", ["cuda", "metal", "vulkan", "hip"])
def test_gpu_flags_are_portable_and_the_backend(engine: str) -> None:
    flags = bootstrap.engine_flags(engine, "x86_64", ALL_X86)
    assert flags == [*PORTABLE, f"-DGGML_{engine.upper()}=on"]


@pytest.mark.parametrize(("system", "c", "cxx"), [("linux", "icx", "icpx"), ("win32", "cl", "icx")])
def test_sycl_is_built_by_intels_compiler(system: str, c: str, cxx: str) -> None:
    flags = bootstrap.engine_flags("sycl", "x86_64", ALL_X86, system=system)
    compilers = [f"-DCMAKE_C_COMPILER={c}", f"-DCMAKE_CXX_COMPILER={cxx}"]
    assert flags == [*PORTABLE, "-DGGML_SYCL=on", *compilers]


def test_every_list_of_engines_names_them_all() -> None:
    for name in ("Makefile", "docs/engines.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert all(re.search(rf"\b{engine}\b", text) for engine in bootstrap.ENGINES[1:]), name


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ('The link interface of target "ggml-cuda" contains:\n\n    CUDA::cublas\n\n  but the '
         "target was not found.", "no cuBLAS"),
        ("CMake Error: CMAKE_CUDA_COMPILER not found", "CUDA toolkit so that"),
        ("ggml-vulkan.cpp:5500: error: 'LayerSettingEXT' is not a member of 'vk'", "too old"),
        ("Could NOT find Vulkan (missing: Vulkan_LIBRARY glslc)", "Vulkan SDK (headers"),
        ('Could not find a package configuration file provided by "hip": hip-config.cmake',
         "ROCm"),
        ('CMAKE_CXX_COMPILER:\n\n    icpx\n\n  is not a full path and was not found', "oneAPI"),
        ("CMake Error: C++ compiler lacks SYCL support.", "oneAPI"),
        ("CMake Error: CMAKE_CXX_COMPILER not set", "Check that the C/C++ compiler works"),
    ],
)  # fmt: skip
def test_a_toolkit_that_is_incomplete_is_told_with_what_to_do(
    tmp_path: Path, said: str, words: str
) -> None:
    command = [sys.executable, "-c", f"print({said!r}); raise SystemExit(1)"]
    with pytest.raises(bootstrap.SetupError, match=re.escape(words)):
        bootstrap.run_logged("Compiling", command, os.environ, tmp_path / "log", lambda _: None)


def test_cuda_builds_for_the_cards_that_are_here() -> None:
    flags = bootstrap.engine_flags("cuda", "x86_64", ALL_X86, ["9.0", "8.6", "8.6", "12.0"])
    assert flags[-1] == "-DCMAKE_CUDA_ARCHITECTURES=120a-real;86-real;90-real"
    assert bootstrap.engine_flags("vulkan", "x86_64", ALL_X86, ["9.0"])[-1] == "-DGGML_VULKAN=on"


def test_an_unknown_engine_is_refused_with_the_choices() -> None:
    with pytest.raises(bootstrap.SetupError, match=r"'rocket'.*portable, native, cuda"):
        bootstrap.engine_flags("rocket", "x86_64", ALL_X86)


def test_cpu_features_from_proc(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("vendor_id\t: x\nflags\t\t: fpu sse4_2 AVX2 fma\nbugs\t\t: avx\n\n")
    assert bootstrap.cpu_features("linux", cpuinfo) == {"fpu", "sse4_2", "avx2", "fma"}
    assert bootstrap.cpu_features("linux", tmp_path / "absent") == frozenset()


def test_cpu_features_from_sysctl(monkeypatch: pytest.MonkeyPatch) -> None:
    says = {"machdep.cpu.features": "FPU SSE4.2 FMA AVX1.0 F16C", "x": ""}
    says["machdep.cpu.leaf7_features"] = "BMI1 AVX2 BMI2"
    monkeypatch.setattr(bootstrap, "first_line", lambda command: says[command[-1]])
    assert bootstrap.cpu_features("darwin") >= bootstrap.X86_FEATURES


# --------------------------------------------------------------------------- bootstrap's build


def test_build_environment_drops_the_date_and_keeps_the_rest() -> None:
    base = {"SOURCE_DATE_EPOCH": "315532800", "PATH": "/bin", "CMAKE_ARGS": "-DA=1"}
    env = bootstrap.build_environment(base, "-DB=2", 6)
    assert env == {"PATH": "/bin", "CMAKE_ARGS": "-DB=2", "CMAKE_BUILD_PARALLEL_LEVEL": "6"}
    assert "SOURCE_DATE_EPOCH" in base, "the caller's environment is left alone"


def test_build_environment_keeps_a_parallel_level() -> None:
    env = bootstrap.build_environment({"CMAKE_BUILD_PARALLEL_LEVEL": "1"}, "", 6)
    assert env["CMAKE_BUILD_PARALLEL_LEVEL"] == "1"


def test_key_changes_with_everything_that_decides_the_wheel() -> None:
    base = ["llama-cpp-python==1 --hash=x", "-DA=ON", "linux-x86_64", "cc 12", ""]
    keys = {bootstrap.wheel_key(*base)}
    for index in range(len(base)):
        keys.add(bootstrap.wheel_key(*base[:index], base[index] + "2", *base[index + 1 :]))
    assert len(keys) == len(base) + 1
    assert bootstrap.wheel_key(*base) in keys


def test_lock_entry_takes_the_whole_entry_and_only_it() -> None:
    digest = hashlib.sha256(b"").hexdigest()
    wanted = f"b==2 ; python_version > '3' \\\n    --hash=sha256:{digest} \\\n    --hash=sha256:1\n"
    lock = f"# head\na-b==1 \\\n    --hash=sha256:0\n{wanted}c==3 \\\n    --hash=sha256:2\n"
    assert bootstrap.lock_entry(lock, "b") == ("2", wanted)
    with pytest.raises(bootstrap.SetupError, match="has no d with hashes"):
        bootstrap.lock_entry(lock, "d")


def test_a_lock_entry_without_a_hash_is_refused() -> None:
    with pytest.raises(bootstrap.SetupError):
        bootstrap.lock_entry("llama-cpp-python==0.3.36\nother==1 \\\n    --hash=sha256:0\n")


def test_cache_is_where_platformdirs_puts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLM_LATENCY_CACHE", raising=False)
    expected = Path(platformdirs.user_cache_dir("llm-latency-lab"))
    assert bootstrap.cache_root(os.environ) == expected
    assert bootstrap.cache_root({"LLM_LATENCY_CACHE": "/elsewhere"}) == Path("/elsewhere")


@pytest.mark.parametrize(
    ("system", "env", "expected"),
    [
        ("linux", {}, "~/.cache/llm-latency-lab"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/llm-latency-lab"),
        ("darwin", {}, "~/Library/Caches/llm-latency-lab"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/llm-latency-lab/llm-latency-lab/Cache"),
    ],
)
def test_cache_by_system(system: str, env: dict[str, str], expected: str) -> None:
    assert bootstrap.cache_root(env, system) == Path(expected).expanduser()


@pytest.mark.parametrize(
    ("line", "fraction"),
    [
        ("  [26/140] /usr/bin/g++ -O3 -o x.o", 26 / 140),
        ("[140/140] Linking", 1.0),
        ("[ 25%] Building CXX object ggml/src/x.o", 0.25),
        ("  [100%] Built target llama", 1.0),
        ("  [0/1] Re-running CMake...", None),
        ("-- Found OpenSSL [3/140]", None),
        ("Building wheel for llama-cpp-python: started", None),
    ],
)
def test_progress_lines(line: str, fraction: float | None) -> None:
    assert bootstrap.build_progress(line) == fraction


def test_package_progress_counts_entries_and_ends_at_one() -> None:
    share = bootstrap.package_progress("a==1 \\\n    --hash=x\nb==2 ; y\nc==3\n")
    shares = [
        share("Ignoring a: markers 'x' don't match your environment"),
        share("Collecting b==2 (from -r requirements.lock (line 3))"),
        share("  Downloading b-2.whl (1 kB)"),
        share("Processing /x/c-3.whl (from -r requirements.lock (line 4))"),
        share("Successfully installed b-2 c-3"),
    ]
    assert shares == [pytest.approx(0.3), pytest.approx(0.6), None, pytest.approx(0.9), 1.0]


def test_status_line_says_share_time_and_time_left() -> None:
    line = bootstrap.status_line("Compiling", 0.25, 60.0)
    assert line == "Compiling [#####               ]  25% after 1.0 min, about 3.0 min left"
    assert "left" not in bootstrap.status_line("Compiling", 0.0, 0.0)
    assert "left" not in bootstrap.status_line("Compiling", 1.0, 60.0)
    assert line.isascii()


def test_a_failed_command_shows_its_end_the_log_and_what_to_do(tmp_path: Path) -> None:
    script = "print('\\n'.join(map(str, range(100)))); print('g++: fatal error: Killed'); exit(3)"
    log = tmp_path / "logs" / "build.log"
    with pytest.raises(bootstrap.SetupError) as failure:
        bootstrap.run_logged(
            "Building", [sys.executable, "-c", script], os.environ, log, bootstrap.build_progress
        )
    message = str(failure.value)
    assert "Building failed" in message and "fatal error: Killed" in message
    assert str(log) in message and "CMAKE_BUILD_PARALLEL_LEVEL=1" in message
    assert "\n50\n" not in message and "\n99\n" in message
    assert log.read_text(encoding="utf-8").startswith("0\n1\n")


def test_a_failed_build_leaves_no_wheel_folder(tmp_path: Path) -> None:
    target = tmp_path / "wheels" / "key"
    entry = "llama-cpp-python==0.3.36 --hash=sha256:" + "0" * 64 + "\n"
    env = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    with pytest.raises(bootstrap.SetupError, match="index could not be reached"):
        bootstrap.build_wheel(Path(sys.executable), entry, env, target, tmp_path / "build.log")
    assert list(target.parent.iterdir()) == []


def test_a_folder_that_is_no_venv_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(bootstrap.SetupError, match="no virtual environment"):
        bootstrap.make_venv(tmp_path, tmp_path / "bin" / "python")
    assert (tmp_path / "thesis.txt").read_text() == "mine"


class Calls:
    """set_up's outside world: records what would be run, and pretends that it worked."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.venv = tmp_path / ".venv"
        self.steps: list[str] = []
        self.env: dict[str, str] = {}
        self.entry = self.by = ""
        monkeypatch.setenv("LLM_LATENCY_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("CMAKE_ARGS", raising=False)
        monkeypatch.setattr(bootstrap, "cuda_cards", lambda: [])
        monkeypatch.setattr(bootstrap, "compiler_line", lambda env, engine: "c++ 13")
        monkeypatch.setattr(bootstrap, "make_venv", self.make_venv)
        monkeypatch.setattr(bootstrap, "packages_of", lambda python: str(python.parent.parent)
                            if python.exists() else "")  # fmt: skip
        monkeypatch.setattr(bootstrap, "build_wheel", self.build_wheel)
        monkeypatch.setattr(bootstrap, "run_logged", self.run_logged)

    def make_venv(self, venv: Path, python: Path, by: str = "") -> None:
        self.by = by
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()

    def build_wheel(
        self, python: Path, entry: str, env: dict[str, str], target: Path, log: Path
    ) -> None:
        self.steps.append("build")
        self.env, self.entry = env, entry
        target.mkdir(parents=True)
        (target / "llama.whl").touch()

    def run_logged(self, label: str, *_: object) -> None:
        self.steps.append(label)

    def run(self, engine: str | None = None) -> list[str]:
        self.steps.clear()
        bootstrap.set_up(engine, self.venv)
        return list(self.steps)

    def run_named(self, name: str, engine: str | None = None, version: str = "") -> list[str]:
        self.steps.clear()
        bootstrap.set_up(engine, self.venv.parent / name, self.venv, version)
        return list(self.steps)

    def facts(self, name: str = ".venv") -> dict[str, str]:
        folder = self.venv.parent / name
        loaded = json.loads((folder / "engine-build.json").read_text(encoding="utf-8"))
        assert isinstance(loaded, dict)
        return loaded


ALL_STEPS = ["build", "Installing the engine", "Installing packages", "Installing the lab"]


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(tmp_path, monkeypatch)


def test_a_second_set_up_does_nothing(calls: Calls) -> None:
    assert calls.run() == ALL_STEPS
    assert calls.run() == []
    facts = calls.facts()
    assert facts["engine"] == "portable" and "-DGGML_NATIVE=OFF" in facts["cmake_args"]
    assert facts["llama_cpp_python"] == bootstrap.lock_entry(LOCK)[0]
    assert facts["compiler"] == "c++ 13"


def test_another_engine_is_built_anew_and_then_kept(calls: Calls) -> None:
    calls.run("portable")
    assert calls.run("vulkan") == ALL_STEPS
    assert calls.run() == [], "without --engine, the installed one stays"
    assert calls.facts()["engine"] == "vulkan"
    assert calls.run("portable") == ALL_STEPS[1:], "the cached wheel is used"


def test_cmake_args_of_the_environment_come_last_and_are_kept(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls.run()
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_AVX2=OFF")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "315532800")
    assert calls.run() == ALL_STEPS
    assert calls.env["CMAKE_ARGS"].endswith(" -DGGML_AVX2=OFF")
    assert "SOURCE_DATE_EPOCH" not in calls.env
    monkeypatch.delenv("CMAKE_ARGS")
    assert calls.run() == []
    assert calls.run("portable") == ALL_STEPS[1:]
    assert "-DGGML_AVX2=OFF" not in calls.facts()["cmake_args"]


def test_an_interrupted_set_up_goes_on_where_it_was(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(label: str, *_: object) -> None:
        if label == "Installing packages":
            raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(bootstrap, "run_logged", interrupted)
        with pytest.raises(KeyboardInterrupt):
            calls.run()
    assert calls.run() == ALL_STEPS[2:]


def test_no_compiler_is_said_only_when_one_is_needed(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls.run()
    monkeypatch.setattr(bootstrap, "compiler_line", lambda env, engine: "")
    assert calls.run() == [], "what is installed needs no compiler"
    (calls.venv / "bootstrap-stamp.json").unlink()
    assert calls.run() == ALL_STEPS[2:], "nor does what the cache has"
    with pytest.raises(bootstrap.SetupError, match=r"no C/C\+\+ compiler was found: install"):
        calls.run("native")


# --------------------------------------------------------------------------- several engines


def test_a_named_engine_stands_beside_the_first_and_takes_all_else_from_it(calls: Calls) -> None:
    with pytest.raises(bootstrap.SetupError, match=r"not set up: run 'python bootstrap.py' first"):
        calls.run_named("wide", "native")
    calls.run()
    assert calls.run_named("wide", "native") == ALL_STEPS[:2]
    assert calls.by == str(calls.venv / "bin" / "python")
    assert calls.run_named("wide") == [] == calls.run(), "each keeps its own"
    assert (calls.facts("wide")["engine"], calls.facts()["engine"]) == ("native", "portable")
    link = calls.venv.parent / "wide" / "home.pth"
    assert link.read_text() == f"import site; site.addsitedir({str(calls.venv)!r})\n"


def test_a_release_that_the_lock_does_not_name_is_built_without_its_checksums(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    calls.run()
    assert "--hash=" in calls.entry
    calls.run_named("old", version="0.3.30")
    assert calls.entry == "llama-cpp-python==0.3.30\n"
    assert "without a checksum" in capsys.readouterr().out
    assert calls.run_named("old") == [], "it is kept"
    assert calls.facts("old")["llama_cpp_python"] == "0.3.30"
    assert calls.run_named("old", version=bootstrap.lock_entry(LOCK)[0]) == ALL_STEPS[1:2]
    with pytest.raises(bootstrap.SetupError, match=r"refused: give a release"):
        calls.run_named("old", version="0.3 ; x")


def test_another_release_needs_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bootstrap.main(["--engine-version", "0.3.30"])
    assert "--engine-version needs --name" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "home", "all", "../up", "a/b", "-x", "end.", "x" * 99])
def test_a_name_that_no_engine_can_have_is_refused(name: str) -> None:
    with pytest.raises(bootstrap.SetupError, match="is refused: give letters"):
        bootstrap.place_of(name, {})


def test_named_engines_lie_where_the_lab_looks_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llm_latency.machine import interpreters

    monkeypatch.delenv("LLM_LATENCY_ENGINES")
    assert bootstrap.place_of("wide", {}) == interpreters.folder() / "wide"
    monkeypatch.setenv("LLM_LATENCY_ENGINES", str(tmp_path))
    assert bootstrap.place_of("wide", os.environ) == interpreters.folder() / "wide"
