"""Sessions in Redis or Valkey, shared by many replicas: a compare-and-set decides which commit counts."""
