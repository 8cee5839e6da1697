"""What `benches/bounds` measures, an issue a module."""
