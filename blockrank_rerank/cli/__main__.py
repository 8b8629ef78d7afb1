"""``python -m blockrank_rerank.cli`` is ``blockrank``."""

import sys

from blockrank_rerank.cli.app import main

sys.exit(main())
