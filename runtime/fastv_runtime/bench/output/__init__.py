"""A report for a terminal, as a page, as a JSON schema."""
