"""Print, as constraints for pip, the lowest versions that pyproject.toml allows of what users install."""

import re
from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10, whose pip brings what reads TOML
    from pip._vendor import tomli as tomllib

NOT_OF_USERS = {"test", "test-serve", "docs", "dev"}
"""Extras whose versions are those of whoever works on the project."""

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
lists = [project["dependencies"], *(extras[name] for name in extras.keys() - NOT_OF_USERS)]
for line in sorted(line for lines in lists for line in lines if not line.startswith(project["name"])):
    bound = re.fullmatch(r"([\w-]+)(?:\[[\w,-]+\])?>=([\d.]+)", line)
    if bound is None:
        raise SystemExit(f"pyproject.toml: expected NAME>=VERSION, whose lowest version can be tried, got {line!r}")
    print(f"{bound[1]}=={bound[2]}")
