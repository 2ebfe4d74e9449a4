"""The embedded corpus: text of the installed Python packages, which every machine with the same pins has.

Three parts can be taken: docstrings (English prose about code), prose files (README, documentation, long
descriptions) and sources without their docstrings and licence headers, so that no text is taken twice. Only
files that the package's own file list names are read: nothing compiled, generated at installation or
dependent on where the package lies.
"""

import ast
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from tst_titan.errors import UserError

PROSE_SUFFIXES = (".md", ".rst", ".txt")
# Tests repeat each other and hold data; vendored copies repeat other packages; version files and build
# records differ from machine to machine.
ALWAYS_EXCLUDED = (
    r"(^|/)(tests?|testing|_?vendor(ed)?|third_party|node_modules|__pycache__)/",
    r"(^|/)(test_[^/]*|[^/]*_test|conftest|setup|_?version|__config__|_distributor_init[^/]*)\.py$",
    r"(^|/)[^/]*(_pb2|_pb2_grpc)\.pyi?$",
    r"\.dist-info/(?!METADATA$)",
    r"(?i)(^|/)(licen[sc]e|copying|notice|authors|requirements|top_level|entry_points)[^/]*\.(txt|md|rst)$",
)
_PINNED = re.compile(r"^([A-Za-z0-9][\w.-]*)==([^\s;#]+)")
_OWN_DOCUMENT_CHARS = 500  # a class whose docstrings are shorter joins its module's document
_Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def canonical(package: str) -> str:
    """A package's name as registries compare it: lower case, runs of `-_.` as one dash."""
    return re.sub(r"[-_.]+", "-", package).lower()


def read_pins(path: Path) -> dict[str, str]:
    """Pinned versions of a requirements file, by canonical name.

    Raises:
        UserError: the file is missing or pins nothing.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: the file of pinned packages is missing") from None
    pins = {canonical(found[1]): found[2] for line in lines if (found := _PINNED.match(line.strip()))}
    if not pins:
        raise UserError(f"{path}: no line pins a package as name==version")
    return pins


def check_installed(packages: dict[str, str]) -> list[str]:
    """Compare the running environment with the pins that a corpus was resolved with.

    Returns:
        One warning for each package whose installed version is another one: its documents may differ.

    Raises:
        UserError: a package is not installed.
    """
    found = []
    for name, pinned in packages.items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            raise UserError(
                f"source installed_packages: package {name!r} is not installed (expected: {name}=={pinned}); "
                "install the pinned environment or take the package off the source's list"
            ) from None
        if installed.split("+")[0] != pinned.split("+")[0]:
            found.append(f"{name} {installed} is installed, {pinned} is pinned: its documents may differ")
    return found


def package_files(package: str, exclude: Sequence[str] = ()) -> list[tuple[str, Path]]:
    """Text files of an installed package: (path inside site-packages, path on disk), sorted.

    Args:
        package: name of the distribution.
        exclude: regular expressions; files whose inner path one of them or of `ALWAYS_EXCLUDED` matches
            anywhere are left out.
    """
    distribution = metadata.distribution(package)
    refused = [re.compile(pattern) for pattern in (*ALWAYS_EXCLUDED, *exclude)]
    files = {}
    for file in distribution.files or []:
        inner = file.as_posix()
        wanted = inner.endswith((".py", *PROSE_SUFFIXES, ".dist-info/METADATA"))
        if wanted and not inner.startswith(("..", "/")) and not any(p.search(inner) for p in refused):
            files[inner] = Path(str(distribution.locate_file(file)))
    return sorted(files.items())


def documents_of(
    inner: str, path: Path, parts: Sequence[str], target_chars: int
) -> Iterator[tuple[str, str]]:
    """Documents of one file: (id, text) pairs, none if the file is not text or not of the wanted parts.

    Args:
        inner: the file's path inside site-packages, the base of the ids.
        path: the file.
        parts: any of docstrings, prose and sources.
        target_chars: pieces of a file are joined up to about this many characters.
    """
    try:
        text = path.read_bytes().decode("utf-8").replace("\r\n", "\n")
    except (UnicodeDecodeError, OSError):
        return
    if not inner.endswith(".py"):
        if "prose" in parts:
            yield from _numbered(inner, pack(_prose_pieces(inner, text), target_chars))
        return
    tree = _parse(text)
    if tree is None:
        return
    if "docstrings" in parts:
        yield from _numbered(f"{inner}:doc", _docstring_documents(tree, target_chars))
    if "sources" in parts:
        yield from _numbered(f"{inner}:src", pack(_source_pieces(tree, text), target_chars, "\n"))


def pack(pieces: Iterable[str], target_chars: int, separator: str = "\n\n") -> Iterator[str]:
    """Join consecutive pieces up to about `target_chars`; a piece is never cut."""
    held: list[str] = []
    length = 0
    for piece in pieces:
        if held and length + len(piece) > target_chars:
            yield separator.join(held)
            held, length = [], 0
        held.append(piece)
        length += len(piece) + len(separator)
    if held:
        yield separator.join(held)


def _numbered(base: str, texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    for number, text in enumerate(texts):
        yield f"{base}/{number}", text.strip("\n")


def _parse(text: str) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):
            return None


def _prose_pieces(inner: str, text: str) -> list[str]:
    if inner.endswith("METADATA"):
        _, _, text = text.partition("\n\n")  # the headers end at the first empty line
    return [piece.strip("\n") for piece in re.split(r"\n{2,}", text) if piece.strip()]


def _definitions(node: ast.AST) -> Iterator[_Definition]:
    """A definition and all definitions inside it, in source order, also under `if`, `try` and `with`."""
    if isinstance(node, _Definition):
        yield node
    for block in (
        "body",
        "handlers",
        "orelse",
        "finalbody",
    ):  # walking every expression takes ten times longer
        for child in getattr(node, block, ()):
            yield from _definitions(child)


def _docstrings(node: ast.AST) -> list[str]:
    """The docstrings of a definition and of all definitions inside it, in source order."""
    return [text for inner in _definitions(node) if (text := (ast.get_docstring(inner) or "").strip())]


def _docstring_documents(tree: ast.Module, target_chars: int) -> Iterator[str]:
    """A large class is a document, so that its copies in other modules are found; the rest is packed."""
    rest = [ast.get_docstring(tree) or ""]
    for node in tree.body:
        found = _docstrings(node)
        if isinstance(node, ast.ClassDef) and sum(map(len, found)) >= _OWN_DOCUMENT_CHARS:
            yield from pack(found, target_chars)
        else:
            rest += found
    yield from pack((text for text in rest if text), target_chars)


def _source_pieces(tree: ast.Module, text: str) -> Iterator[str]:
    """Top-level statements with the comments before them; docstrings and the file's header are left out."""
    lines: list[str | None] = list(text.split("\n"))
    for definition in _definitions(tree):
        _blank_docstring(definition, lines)
    body = tree.body[1:] if ast.get_docstring(tree, clean=False) is not None else tree.body
    starts = [min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) for node in body]
    previous_end = starts[0] - 1 if starts else 0
    for node in body:
        end = node.end_lineno or node.lineno
        piece = "\n".join(line.rstrip() for line in lines[previous_end:end] if line is not None)
        previous_end = end
        if piece.strip():
            yield piece


def _blank_docstring(node: _Definition, lines: list[str | None]) -> None:
    """Take the docstring's lines out of `lines`; a body of nothing else becomes `...`."""
    if ast.get_docstring(node, clean=False) is None:
        return
    expression = node.body[0]
    first, last = expression.lineno - 1, expression.end_lineno or expression.lineno
    alone = len(node.body) == 1 and not isinstance(node, ast.Module)
    before = (lines[first] or "")[: expression.col_offset]
    if before.strip():
        return  # `def f(): "doc"` on one line
    lines[first:last] = [before + "..." if alone else None] + [None] * (last - first - 1)
