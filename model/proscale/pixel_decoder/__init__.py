"""Feature levels -> refined levels for the transformer decoder, and mask features for the masks."""
