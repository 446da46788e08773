"""``python -m frictionstore``."""

from frictionstore.cli import main

main()
