"""Dead letters: what is kept of entries that ended without their effects, and its ways on."""
