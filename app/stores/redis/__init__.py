"""Sessions in Redis or Valkey, shared by many replicas: who was ahead is decided by a compare-and-set."""
