from __future__ import annotations

from tests.families.row import Row
from tests.tiny import write_tiny_llava

ROWS = [Row("llava", write_tiny_llava, cases=(((64, 48),), ((200, 90), (50, 120))), options={"max_images": 2})]
