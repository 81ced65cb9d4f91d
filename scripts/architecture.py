"""Write into docs/architecture.md which packages import which, read from the code.

Example:
    python scripts/architecture.py           # rewrite the part between the markers
    python scripts/architecture.py --check   # fail where it is out of date
"""

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "scan_tf"
DOCUMENT = ROOT / "docs" / "architecture.md"
START, END = "<!-- imports:start -->", "<!-- imports:end -->"


def name_of(path: Path) -> str:
    """The dotted name of a module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def package_of(module: str) -> str | None:
    """`data` of `scan_tf.data.images`; None for the modules directly in scan_tf."""
    parts = MODULES[module].relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else None


def imported(source: str, package: str) -> set[str]:
    """The modules of scan_tf that a source text imports, also inside of functions.

    `package` is the dotted package that holds the module, for relative imports.
    """
    found = set()
    for name in _imported_names(source, package):
        while name.startswith("scan_tf") and name not in MODULES:
            name = name.rpartition(".")[0]  # it was a name of that module
        found |= {name} & set(MODULES)
    return found


def imports_of(module: str) -> set[str]:
    """The other modules of scan_tf that a module imports."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return imported(path.read_text(encoding="utf-8"), package) - {module}


def table() -> str:
    """A line for each package, with those that it imports."""
    packages = sorted({package for m in MODULES if (package := package_of(m))})
    found = {
        package: {
            str(package_of(other))
            for module in MODULES
            if package_of(module) == package
            for other in imports_of(module)
            if package_of(other) not in (package, None)
        }
        for package in packages
    }
    width = max(map(len, packages))
    return "\n".join(
        f"{package:{width}}  {' '.join(sorted(others)) or '-'}" for package, others in found.items()
    )


def with_table(text: str) -> str:
    """The document as it should be. Exits where the markers are missing."""
    head, start, rest = text.partition(START)
    _, end, tail = rest.partition(END)
    if not start or not end:
        sys.exit(f"{DOCUMENT}: expected a line '{START}' and, below it, '{END}'.")
    return f"{head}{start}\n```\n{table()}\n```\n{end}{tail}"


def main() -> int:
    """Run the program; returns 0, or 1 where the document is out of date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    arguments = parser.parse_args()
    before = DOCUMENT.read_text(encoding="utf-8")
    after = with_table(before)
    if arguments.check and before != after:
        print(f"{DOCUMENT}: is out of date. Run: python scripts/architecture.py", file=sys.stderr)
        return 1
    DOCUMENT.write_text(after, encoding="utf-8")
    return 0


def _imported_names(source: str, package: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


if __name__ == "__main__":
    sys.exit(main())
