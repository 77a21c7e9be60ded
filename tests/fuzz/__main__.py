"""``python -m tests.fuzz``: see fuzz_decode.py."""

import sys

from tests.fuzz.fuzz_decode import main

sys.exit(main())
