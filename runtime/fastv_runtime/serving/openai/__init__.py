"""OpenAI's chat API: what requests and responses are, and how they become questions and answers of ours."""
