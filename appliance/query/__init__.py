"""Questions to the store: the filter language, the engine, and what people ask most."""
