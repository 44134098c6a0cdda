"""`python -m memspan`."""

from memspan.cli import main

raise SystemExit(main())
