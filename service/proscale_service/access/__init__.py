"""Who may ask, and how much: API keys, their rights and quotas."""
