"""The demo learnt something: its held-out loss fell from that of the base model to below 3.9.

In: the path of a run's `metrics.json`. Out: one line, and exit code 1 when it did not.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

found = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["evaluation"]
base, tuned = found["baseline"]["loss"], found["tuned"]["loss"]
print(f"held-out loss: base {base:.3f}, tuned {tuned:.3f}")
sys.exit(0 if 3.95 < base < 4.15 and tuned < 3.9 else 1)
