"""From images and a prompt to an answer: the pipeline, its prompt, the decode loop, sampling."""
