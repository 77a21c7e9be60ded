"""Long actions as resources: begun by a request, followed by anybody, with an end that is known."""
