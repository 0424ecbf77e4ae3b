"""Parameter layouts of the catalogue: names, order and shapes, so that saved models keep loading.

Regenerate, after a change of layout that is meant: python tests/golden/regenerate.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

FILE = Path(__file__).with_name("parameters.json")


def layouts() -> dict[str, dict[str, list[int]]]:
    """Every row of the catalogue, made with 3 inputs and 5 hidden units."""
    from catalogue import ROWS

    return {
        row.name: {name: list(x.shape) for name, x in row.make(3, 5).state_dict().items()} for row in ROWS
    }


if __name__ == "__main__":
    sys.path.insert(0, str(FILE.parent.parent))
    body = ",\n".join(f"  {json.dumps(name)}: {json.dumps(layout)}" for name, layout in layouts().items())
    FILE.write_text("{\n" + body + "\n}\n")
