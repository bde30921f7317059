"""Every command block of every document runs as it stands, or names commands, options and files that exist.

A comment before a block says which::

    <!-- run: quick -->          run with all tests
    <!-- run: slow -->           run by ``make test-docs`` (marker ``docs``)
    <!-- check: the reason -->   not run: needs a network, a GPU, another system, or hours

A block without such a comment fails. Blocks run in a copy of the project (``conftest.py``) in which the text's places exist: small
phantom studies in STUDIES, TASK1 and TASK2, weights in runs/…, prepared slices. The copy's configurations have tiny values at
their top, so that the method's networks need not be built and no weights fetched; nothing is added to a command.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import monai.bundle
import pytest
import yaml

from scripts import checks, cli
from tests.forked import python_words
from tools import build_bundle

try:
    import tomllib
except ImportError:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundle"
DOCUMENTS = sorted(
    path
    for place in (".", "apps", "benchmarks", "bundle", "tools")
    for path in (ROOT / place).glob("*.md" if place == "." else "**/*.md")
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
COMMANDS = ("bash", "python", "")  # languages of blocks that are run or checked; yaml is read, others are for the eye
FOREIGN = {"cp", "curl", "exec", "find", "mkdir", "monai-deploy", "nvflare", "printf", "scontrol", "tensorboard"}
JOBS = {
    "predict": ["inference"],
    "segment": ["inference", "fuse_segmentation"],
    "pretrain": ["pretrain_segmentation"],
    "volumes": ["volumes"],
    "phantom": ["phantom", "pretrain_segmentation"],
    "crossvalidate": ["crossvalidate"],
}


class Block(NamedTuple):
    document: str
    line: int
    language: str
    mark: str
    text: str


def blocks(document: Path) -> Iterator[Block]:
    """Fenced blocks with the comment before them."""
    text = document.read_text(encoding="utf-8")
    for found in re.finditer(r"^(?:<!-- ([^\n]*?) -->\n)?```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(document.relative_to(ROOT).as_posix(), line, found[2], found[1] or "", found[3])


BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]


def marked(*marks: str) -> list[Block]:
    """Those blocks, marked as they are or for a reason that follows."""
    return [block for block in BLOCKS if block.mark.split(": ")[0] in marks or block.mark in marks]


def documents(mark: str):
    """Documents with such blocks as parameters of a test: blocks of one document may need what earlier ones wrote."""
    return pytest.mark.parametrize("document", list(dict.fromkeys(block.document for block in marked(mark))))


def test_every_block_is_marked():
    known = re.compile(r"run: (quick|slow)|check: \w.*")
    bad = [
        f"{one.document}:{one.line}: {one.mark}"
        for one in BLOCKS
        if one.language in COMMANDS and not known.fullmatch(one.mark)
    ]
    assert not bad, f"no «run: quick», «run: slow» or «check: reason» before: {bad}"


# Blocks that run


def place(project: Path, document: str, folder: Path) -> Path:
    """Make the folder in which the blocks of a document run."""
    shutil.copytree(project, folder, symlinks=True, ignore=shutil.ignore_patterns("phantoms", "bundle"))
    (folder / "bundle").symlink_to(project / "bundle")
    (folder / "brats_mri_radiogenomics").symlink_to(project / "bundle")
    root = project / "bundle"
    if "segmentation_bundle" in document:
        root = folder / "brats_mri_slice_segmentation"
        build = [sys.executable, str(project / "tools" / "build_bundle.py"), "--output", str(folder / "dist")]
        subprocess.run(build, check=True, capture_output=True)
        shutil.unpack_archive(next((folder / "dist").glob(f"{root.name}*.zip")), folder)
    for name in ("configs", "models", "scripts"):  # the cards' commands start in the bundle's own folder
        (folder / name).symlink_to(root / name)
    return folder


def environment(workspace: Path) -> dict[str, str]:
    """Variables of a command in a workspace: the copied code is the installed one."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS", "PYTHON"))}
    programs = os.pathsep.join(
        (str(write_programs(workspace / ".programs")), str(Path(sys.executable).parent), kept["PATH"])
    )
    return {**kept, "PATH": programs, "PYTHONPATH": str(workspace / "installed"), "VENV": sys.prefix}


def write_programs(folder: Path) -> Path:
    """``python`` and ``radiogenomics`` that import PyTorch and MONAI once for all commands (``tests/forked.py``)."""
    folder.mkdir(exist_ok=True)
    entry = "import sys; from radiogenomics.scripts.cli import main; sys.argv[0] = 'radiogenomics'; sys.exit(main())"
    for name, words in {"python": [], "radiogenomics": ["-c", entry]}.items():
        (folder / name).write_text(f'#!/bin/sh\nexec {shlex.join([*python_words(), *words])} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


def run(block: Block, workspace: Path, environment: dict[str, str]) -> None:
    """Run a block; what it writes is removed before, so that blocks may write to the same place."""
    written = r"--(?:output|output_dir|preview)[ =](\S+)|build_datalist\('[^']+', '([^']+)'\)"
    for name in {one or other for one, other in re.findall(written, block.text)}:
        path = workspace / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
    words = [*python_words(), "-c"] if block.language == "python" else ["bash", "-euo", "pipefail", "-c"]
    done = subprocess.run(
        [*words, block.text], cwd=workspace, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, f"{block.document}:{block.line}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def run_document(document: str, mark: str, project: Path, folder: Path) -> None:
    """Run the blocks of a document that have this mark, one after the other in a workspace of its own."""
    workspace = place(project, document, folder / "work")
    for block in marked(mark):
        if block.document == document:
            run(block, workspace, environment(workspace))


@pytest.mark.slow
@documents("run: quick")
def test_quick_blocks(document, quick_project, tmp_path):
    run_document(document, "run: quick", quick_project, tmp_path)


@pytest.mark.docs
@documents("run: slow")
def test_slow_blocks(document, whole_project, tmp_path):
    run_document(document, "run: slow", whole_project, tmp_path)


# Blocks that are checked


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a text in bash."""
    text = re.sub(r"\\\n\s*", " ", text)
    lines = [
        re.sub(r"\s+# .*", "", line.lstrip("! ")) for line in text.splitlines() if not re.match(r"\s*#|\w+=\$\(", line)
    ]
    lexer = shlex.shlex("\n; ".join(lines), posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    lexer.commenters = ""  # `--train#shuffle` holds none
    words: list[str] = []
    for word in [*lexer, ";"]:
        if not set(word) <= set(";&|"):
            words.append(word)
            continue
        while words and (re.match(r"\w+=", words[0]) or words[0] in ("srun", "exec") or words[0].startswith("--kill")):
            words = words[1:]
        if words[:2] == ["bash", "-c"]:
            yield from commands(words[2])
        elif words and words[0] not in ("set", "export", "."):
            yield words
        words = []


def options(words: list[str]) -> list[str]:
    return [word[2:].split("=")[0] for word in words if re.match(r"--\w", word)]


def existing(name: str) -> Path:
    """A file of the project, named from its root or, in the cards, from the bundle's."""
    found = [place / name for place in (ROOT, BUNDLE) if (place / name).exists()]
    assert found, f"{name}: no such file in the project"
    return found[0]


def of_configs(names: list[str], option: str) -> bool:
    return any(_known(name, option) for name in names)


def _known(config: str, option: str) -> bool:
    try:
        checks._default(config, checks._known(config), option)
    except ValueError:
        return False
    return True


def check_radiogenomics(words: list[str]) -> None:
    if not words or words == ["--help"]:
        return
    command, *rest = words
    assert command in cli.COMMANDS, f"radiogenomics {command}: no such command"
    jobs = JOBS.get(command, [])
    if command in ("prepare", "train", "evaluate") and rest[:1] and rest[0] in checks.STAGES:
        jobs = [f"{command}_{rest[0]}"]
    for option in options(rest):
        known = option in inspect.signature(cli.COMMANDS[command]).parameters or option == "help"
        assert known or of_configs(jobs, option), f"radiogenomics {command}: no option --{option}"


def check_bundle(words: list[str]) -> None:
    command, *rest = words
    function = getattr(monai.bundle, command)  # run, ckpt_export, …
    given = dict(
        zip(options(rest), [rest[i + 1] for i, word in enumerate(rest) if re.match(r"--\w", word)], strict=True)
    )
    files = re.findall(r"[\w./-]+\.yaml", given.get("config_file", ""))
    configs = [existing(file if "/" in file else f"configs/{file}").stem for file in files]
    for option in given:
        known = option in inspect.signature(function).parameters or option.startswith("_meta_")
        assert known or of_configs(configs, option), f"{command}: {configs} have no --{option}"


def check_python(words: list[str]) -> None:
    if words[:1] == ["-c"]:
        ast.parse(words[1])
    elif words[:2] == ["-m", "monai.bundle"]:
        check_bundle(words[2:])
    elif words[:1] == ["-m"]:
        if words[1] != "venv":
            place = (
                existing(words[1].replace(".", "/"))
                if "." not in words[1]
                else existing(words[1].replace(".", "/") + ".py")
            )
            sources = [place] if place.is_file() else list(place.glob("*.py"))
            text = "".join(source.read_text(encoding="utf-8") for source in sources)
            assert all(re.search(rf"\b{option}\b", text) for option in options(words)), words
    else:
        text = existing(words[0]).read_text(encoding="utf-8")
        assert all(re.search(rf"\b{option.replace('-', '[-_]')}\b", text) for option in options(words)), words


def check_make(words: list[str]) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name = re.escape(word.split("=")[0])
        assert re.search(rf"(?m)^{name} \?=" if "=" in word else rf"(?m)^{name}:", text), f"make: nothing called {word}"


def check_pip(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for word, after in zip(words, [*words[1:], ""], strict=True):
        found = re.match(r"(?:\.|brats-mri-radiogenomics)\[(.*)\]", word)
        assert not found or set(found[1].split(",")) <= set(extras), f"pip: no such extra in {word}"
        if word == "-r":
            existing(after)


def check(words: list[str]) -> None:
    """A command's name, options and files; fails for programs that nobody has listed here."""
    program, *rest = words
    name = Path(program).name
    if name == "torchrun":
        start = rest.index("radiogenomics") if "radiogenomics" in rest else rest.index("-m")
        check(rest[start:] if rest[start] == "radiogenomics" else ["python", *rest[start:]])
    elif name == "radiogenomics":
        check_radiogenomics(rest)
    elif name in ("python", "python3"):
        check_python(rest)
    elif name == "make":
        check_make(rest)
    elif name == "pip":
        check_pip(rest)
    elif name in ("pytest", "pre-commit"):
        for word in rest:
            if "/" in word:
                existing(word)
    else:
        assert name in FOREIGN, f"{name}: not known to this test"


@pytest.mark.parametrize(
    "block",
    marked("check", "run: slow"),  # slow ones too: a name that is gone shows at once
    ids=lambda block: f"{block.document}:{block.line}",
)
def test_checked_block(block):
    if block.language == "yaml":
        assert list(yaml.safe_load_all(block.text))
    elif block.language == "python" and not re.search(r"(?m)^!", block.text):
        compile(block.text, block.document, "exec")
    else:
        text = re.sub(r"\\\n\s*", " ", block.text)
        if "segmentation_bundle" in block.document:
            for there, here in build_bundle.CONFIGS.items():
                text = text.replace(f"configs/{there}.yaml", f"configs/{here}.yaml")
        lines = text.splitlines()
        for words in commands("\n".join(line for line in lines if block.language != "python" or line.startswith("!"))):
            check(words)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_and_links_in_the_text(document):
    """Commands in `…` exist, and so does what a relative link leads to, heading included."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for code in re.findall(r"`((?:radiogenomics|make) [^`…|]*)", text):
        if not code.startswith(("make_", "radiogenomics COMMAND")):
            check(shlex.split(code))
    for target, heading in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)", text):
        path = (document.parent / target) if target else document
        if not path.exists() and "segmentation_bundle" in document.parts:
            path = BUNDLE / "docs" / target  # `make bundle` puts them side by side
        assert path.exists(), f"{document.name}: {target} leads nowhere"
        if heading:
            titles = re.findall(r"(?m)^#+ (.*)$", path.read_text(encoding="utf-8"))
            anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in anchors, f"{document.name}: {target}#{heading} leads nowhere"
