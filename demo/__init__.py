"""The demonstration checkpoint: scenes, questions, tokenizer, training and held-out samples."""
