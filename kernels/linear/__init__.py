"""Products with packed weights, and decoder layers made of them."""
