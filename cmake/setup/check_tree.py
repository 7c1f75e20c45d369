#!/usr/bin/env python3
"""Checks what a compiler does not: links, JSON files, plugin folders and the house rules that a pattern can see.

Prints file:line: what is wrong, for everything that is, and exits with 1 if anything is. `./dev lint` runs it.
"""

import json
import pathlib
import re
import subprocess
import sys
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
MADE_BAD = r"^tests/(.*/)?bad[/-]"  # broken on purpose

# What a file may not have: (files, files that may, pattern, why not).
RULES = [
    (r"\.(hpp|h)$", r"^$", r"#include\s*[<\"]torch/(torch|extension|all)\.h", "headers include LibTorch's narrow headers"),
    (
        r"^(host|sdk|plugins)/.*\.(hpp|cpp|h|c)$",
        r"^host/(learn|linalg|measure)/|^sdk/include/biophony/torch/|^sdk/template/|^plugins/encoders/|/torch/",
        r"#include\s*[<\"](torch|ATen|c10)/",
        "LibTorch belongs to learn, linalg, measure, encoders and the SDK's torch headers",
    ),
    (
        r"^host/.*\.(hpp|cpp)$",
        r"^host/app/",
        r"\bstd::(cout|cerr|clog|exit|abort|quick_exit|terminate)\b|(?<![\w:.>])(printf|puts|exit|abort)\s*\(",
        "the core never prints and never exits: it throws biophony::Error",
    ),
    (r"^(host|sdk|plugins)/.*\.(hpp|cpp)$", r"^$", r"\bstd::format\b|#include\s*<format>", "use fmt::format"),
    (
        r"^(host|sdk|plugins)/.*\.(hpp|cpp)$",
        r"^$",
        r"\bstd::random_device\b|(?<![\w:.>])s?rand\s*\(|\btorch::manual_seed\b",
        "randomness comes from a seed that is passed in",
    ),
    (r"^sdk/include/biophony/c/.*\.h$", r"^$", r"#include\s*<(?!std(int|def|bool)\.h>)[^b]", "the C spine needs stdint.h and stddef.h only"),
    (r"\.(hpp|cpp|h|c|py|json|md|cmake|txt)$|^dev$|^\.ci/run$", r"^$", r"^(<<<<<<< |>>>>>>> )", "a merge conflict was left"),
]


def tracked():
    """Files that are tracked, or new and not ignored, as paths with / relative to the root."""
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "-co", "--exclude-standard", "--deduplicate"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return sorted(name for name in names if name and (ROOT / name).is_file())


def without_code(lines):
    """The lines of a Markdown text with code blanked, so that [i](j) in an example is no link."""
    fenced = False
    for line in lines:
        if re.match(r"\s*(```|~~~)", line):
            fenced = not fenced
            yield ""
        else:
            yield "" if fenced else re.sub(r"`[^`]*`", "", line)


def check_links(name, text):
    for number, line in enumerate(without_code(text.split("\n")), 1):
        links = re.findall(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)", line) + re.findall(r"^\s*\[[^\]]+\]:\s*<?([^\s>]+)", line)
        for link in links:
            path = urllib.parse.unquote(link.split("#")[0])
            if not path or re.match(r"[a-z][a-z0-9+.-]*:", link):
                continue
            target = (ROOT / name).parent / path
            if not target.exists():
                yield f"{name}:{number}: the link {link} leads nowhere"
            elif ROOT not in [target.resolve(), *target.resolve().parents]:
                yield f"{name}:{number}: the link {link} leads out of the repository"


def no_twins(pairs):
    keys = [key for key, _ in pairs]
    twins = {key for key in keys if keys.count(key) > 1}
    if twins:
        raise ValueError(f"the key {twins.pop()!r} is there twice")
    return dict(pairs)


def check_json(name, text):
    try:
        json.loads(text, object_pairs_hook=no_twins)
    except json.JSONDecodeError as error:
        yield f"{name}:{error.lineno}: not JSON: {error.msg}"
    except ValueError as error:
        yield f"{name}:1: {error}"


def check_source(name, text):
    if name.endswith(".hpp") and "#pragma once" not in text:
        yield f"{name}:1: no #pragma once"
    for files, excepted, pattern, why in RULES:
        if not re.search(files, name) or re.search(excepted, name):
            continue
        for number, line in enumerate(text.split("\n"), 1):
            code = line if pattern.startswith("^") or name.endswith(".md") else re.sub(r"//.*", "", line)
            if re.search(pattern, code):
                yield f"{name}:{number}: {why}"


def check_plugins(names):
    folders = {"/".join(name.split("/")[:3]) for name in names if re.match(r"plugins/[^/]+/[^/]+/", name)}
    for folder in sorted(folders):
        for needed in ("plugin.json", "README.md"):
            if f"{folder}/{needed}" not in names:
                yield f"{folder}: a plugin's folder needs {needed}"


def main():
    names = tracked()
    problems = list(check_plugins(set(names)))
    for name in names:
        if not re.search(r"\.(md|json|hpp|cpp|h|c|py|cmake|txt)$|^dev$|^\.ci/run$", name):
            continue
        if re.search(MADE_BAD, name):
            continue
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            problems.append(f"{name}:1: not UTF-8 ({error.reason} at byte {error.start})")
            continue
        if name.endswith(".md"):
            problems += check_links(name, text)
        if name.endswith(".json"):
            problems += check_json(name, text)
        problems += check_source(name, text)
    print("\n".join(problems) if problems else f"links, manifests and house rules: {len(names)} files, no fault")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
