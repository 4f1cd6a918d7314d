"""A bundle's manifest as typed models, and what follows from it by arithmetic alone. Pure but for opening a bundle."""
