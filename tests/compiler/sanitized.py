"""Run pytest on another build of the package than the one installed: sanitized.py FOLDER [arguments]."""

from __future__ import annotations

import sys


def main() -> int:
    folder, *arguments = sys.argv[1:]
    # An editable installation answers imports before the path is asked.
    sys.meta_path[:] = [found for found in sys.meta_path if "ScikitBuild" not in type(found).__name__]
    sys.path.insert(0, folder)
    import pytest

    import nextstate._engine

    assert nextstate._engine.__file__.startswith(folder), nextstate._engine.__file__
    return int(pytest.main(arguments))


if __name__ == "__main__":
    sys.exit(main())
