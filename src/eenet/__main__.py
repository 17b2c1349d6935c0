"""`python -m eenet`, also for `accelerate launch --module eenet`."""

import sys

from eenet.cli import main

sys.exit(main())
