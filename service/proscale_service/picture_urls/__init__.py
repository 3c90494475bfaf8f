"""Pictures by URL: which URLs are allowed, which addresses are connected to, and how a picture comes from there.

Whoever may name a URL makes the server ask in its own name, from inside its own network. So everything here is refused unless a rule lets
it pass (OWASP: server-side request forgery).
"""
