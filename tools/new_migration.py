"""Write a migration from the difference between the schema and an up-to-date database.

Usage: python tools/new_migration.py "what changes"
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from alembic import command

from fuseline.plane.store import migrate


def main() -> int:
    """Create the revision file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scratch.db"
        migrate.upgrade(path)
        config = migrate._config(path)  # noqa: SLF001 - the tool is the module's other half
        number = len(list((Path(migrate.__file__).parent / "migrations/versions").glob("[0-9]*.py"))) + 1
        command.revision(config, message=sys.argv[1], autogenerate=True, rev_id=f"{number:04}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
