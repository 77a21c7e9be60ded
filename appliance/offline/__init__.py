"""Work on capture files, with no collector running: decode to JSON, replay to a collector."""
