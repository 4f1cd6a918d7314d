"""From what is asked to token ids and positions: chat templates, the tokenizer, placeholders for visual tokens."""
