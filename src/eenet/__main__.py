"""`python -m eenet`, also for `torchrun -m eenet`."""

import sys

from eenet.cli import main

sys.exit(main())
