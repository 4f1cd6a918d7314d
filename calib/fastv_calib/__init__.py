"""Which K, keep and ranker a model bears on somebody's own pictures: measured, with intervals."""
