from __future__ import annotations

from tests.families.row import Row
from tests.tiny import write_tiny_llava

# Text enough, and with it caches as long as those of the parity tests: their traces serve here.
OPTIONS = {"max_images": 2, "max_text": 104}
ROWS = [Row("llava", write_tiny_llava, cases=(((64, 48),), ((200, 90), (50, 120))), options=OPTIONS)]
