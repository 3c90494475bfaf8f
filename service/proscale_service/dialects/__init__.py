"""Other tools' contracts in front of the same pipeline: one module per dialect. Requests and errors have the dialect's own form."""
