"""What an export's graphs are compared with: transformers' own forward, graph by graph and end to end."""
