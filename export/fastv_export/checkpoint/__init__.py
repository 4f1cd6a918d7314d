"""A checkpoint on disk: found, read tensor by tensor, refused where it is of a form that is not read."""
