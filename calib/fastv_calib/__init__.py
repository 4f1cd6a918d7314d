"""Which K, keep and ranker a model bears on somebody's own images: measured, with intervals."""
