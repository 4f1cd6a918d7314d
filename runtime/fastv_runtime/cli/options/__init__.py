"""Options that commands take: the parser, the types of their values, and those that several commands share."""
