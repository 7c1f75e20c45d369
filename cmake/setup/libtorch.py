#!/usr/bin/env python3
"""Finds LibTorch, or fetches it, and prints its folder: one with include/ and lib/.

    libtorch.py                 in this order: $BIOPHONY_LIBTORCH; the torch package of this Python; the distribution's
                                libtorch; a private environment, .deps/venv, made if it isn't there
    libtorch.py --version DIR   prints the version of the LibTorch in DIR

The private environment gets what linking and running need, not what importing torch in Python needs. For a CPU wheel
that is the wheel alone. The libraries of a CUDA wheel need a few of CUDA's; those packages, and no others, are
installed beside it, and their libraries are linked into the wheel's lib folder, so that the folder printed is complete.

The folder goes to standard output, everything else to standard error. Exit status: 0 found, 2 not to be had.
"""

import importlib.metadata
import importlib.util
import os
import pathlib
import re
import subprocess
import sys

OLDEST = (2, 6)
WHEEL = "torch==2.13.0"
LIBRARIES = ("libc10.so", "libtorch_cpu.so")
# Where a library is not called as its package is: libcudart.so.13 is in nvidia-cuda-runtime.
PACKAGE_WORDS = {"cudart": "runtime", "cublaslt": "cublas", "nvtoolsext": "nvtx", "cufftw": "cufft"}


def say(text):
    print(text, file=sys.stderr, flush=True)


def fail(text):
    say(f"LibTorch: {text}")
    say("LibTorch: set BIOPHONY_LIBTORCH to a folder of LibTorch 2.6 or newer, with include/ and lib/, to use that one")
    sys.exit(2)


def version_of(root):
    """The version in LibTorch's headers, as numbers, or None. The macros moved between releases."""
    for header in ("torch/headeronly/version.h", "torch/csrc/api/include/torch/version.h", "torch/version.h"):
        path = root / "include" / header
        found = path.is_file() and re.findall(r"#define TORCH_VERSION_(?:MAJOR|MINOR|PATCH) +(\d+)", path.read_text())
        if found:
            return tuple(map(int, found))
    return None


def library_folder(root):
    """lib/ of the root; for a distribution's package the folder of this machine's architecture."""
    folders = [root / "lib", *sorted(root.glob("lib/*-linux-gnu*")), root / "lib64"]
    return next((folder for folder in folders if all((folder / name).exists() for name in LIBRARIES)), None)


def missing_libraries(folder):
    """The names of the shared libraries that the loader would not find, whatever LD_LIBRARY_PATH is just now."""
    missing = set()
    environment = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    for name in LIBRARIES:
        ldd = subprocess.run(["ldd", str(folder / name)], capture_output=True, text=True, env=environment)
        missing.update(re.findall(r"^\s*(\S+) => not found", ldd.stdout, re.MULTILINE))
    return sorted(missing)


def why_not(root):
    """Why this LibTorch won't do, or None."""
    folder = library_folder(root)
    version = version_of(root)
    if folder is None:
        return f"no {' and '.join(LIBRARIES)} in {root / 'lib'}"
    if version is None or not (root / "include/ATen/ATen.h").is_file():
        return f"no headers in {root / 'include'}"
    if version < OLDEST:
        return f"version {'.'.join(map(str, version))}; {'.'.join(map(str, OLDEST))} or newer is needed"
    if b"__cxx1112basic_string" not in (folder / "libc10.so").read_bytes():
        return "built with the C++ string of before 2011"
    missing = missing_libraries(folder)
    return f"it needs {', '.join(missing)}, not found" if missing else None


def installed():
    """Candidates that are there already. find_spec does not import torch, which would take seconds."""
    spec = importlib.util.find_spec("torch")
    if spec and spec.submodule_search_locations:
        yield pathlib.Path(spec.submodule_search_locations[0])
    if pathlib.Path("/usr/include/ATen/ATen.h").is_file():
        yield pathlib.Path("/usr")


def parse_requirement(line):
    """'cuda-toolkit[cudart,cupti]==13.0.3; platform_system == "Linux"' -> (name, has extras, what pip understands)."""
    name, extras, version = re.match(r"([\w.-]+)\s*(\[[^\]]*\])?\s*\(?([^;)]*)", line).groups()
    return name.lower().replace("_", "-"), bool(extras), name + version.replace(" ", "")


def requirements(package, site):
    """What a package in `site` asks for, as parsed; without torch's own optional extras."""
    lines = next(importlib.metadata.distributions(name=package, path=[str(site)])).requires or []
    return [parse_requirement(line) for line in lines if package != "torch" or "extra ==" not in line]


def provider(library, candidates):
    """The requirement whose package has `library`, by the words of its name, or None."""
    stem = re.sub(r"^lib|[._-].*$", "", library).lower()
    word = PACKAGE_WORDS.get(stem, stem)
    return next((spec for name, _, spec in candidates if word in re.split(r"[-.]", name)), None)


def add_missing(site, install):
    """Completes the torch package in `site`. `install` takes a requirement and installs it there, alone."""
    library_dir = site / "torch" / "lib"
    tried = set()
    candidates = None
    while missing := missing_libraries(library_dir):
        if candidates is None:
            candidates = requirements("torch", site)
            for name, has_extras, spec in list(candidates):
                if has_extras:  # a package of nothing but names: what it names is what we look among
                    install(spec)
                    candidates += requirements(name, site)
        for library in missing:
            spec = provider(library, candidates)
            if spec is None or library in tried:
                fail(f"the wheel needs {library}, and no package that it names has it")
            tried.add(library)
            if not list(site.glob(f"nvidia/**/{library}")):
                install(spec)
            for file in list(site.glob(f"nvidia/**/{library}"))[:1]:
                os.link(file.resolve(), library_dir / library)
    return library_dir


def private_environment(folder):
    """The torch package of a virtual environment in `folder`, both made where they are not there yet."""
    python = folder / "bin" / "python"

    def run(*command):
        say("LibTorch: " + " ".join(map(str, command)))
        return subprocess.run(command, stdout=sys.stderr).returncode == 0

    def install(requirement):
        pip = (python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", requirement)
        if not run(*pip) and not run(*pip):
            fail(f"pip could not install {requirement}; it says why above")

    works = python.exists() and subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0
    if not works and not run(sys.executable, "-m", "venv", "--clear", folder):
        fail("python3 could not make a virtual environment (Debian: package python3-venv)")
    purelib = "import sysconfig; print(sysconfig.get_path('platlib'))"
    site = pathlib.Path(subprocess.run([python, "-c", purelib], capture_output=True, text=True, check=True).stdout.strip())
    install(WHEEL)
    add_missing(site, install)
    return site / "torch"


def main():
    if sys.argv[1:2] == ["--version"] and len(sys.argv) == 3:
        print(".".join(map(str, version_of(pathlib.Path(sys.argv[2])) or ("unknown",))))
        return
    if len(sys.argv) != 1:
        fail(f"unknown arguments: {' '.join(sys.argv[1:])}")
    chosen = os.environ.get("BIOPHONY_LIBTORCH")
    if chosen:
        root = pathlib.Path(chosen).absolute()
        reason = why_not(root)
        if reason:
            fail(f"BIOPHONY_LIBTORCH is {chosen}: {reason}")
        print(root)
        return
    for root in installed():
        reason = why_not(root)
        if not reason:
            print(root)
            return
        say(f"LibTorch: not {root}: {reason}")
    root = private_environment(pathlib.Path(__file__).resolve().parents[2] / ".deps" / "venv")
    reason = why_not(root)
    if reason:
        fail(f"{root}: {reason}")
    print(root)


if __name__ == "__main__":
    main()
