"""Whether a bundle's files are those that its manifest lists: paths, hashes, hashes remembered, signatures."""
