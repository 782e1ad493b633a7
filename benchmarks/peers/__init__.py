"""The services that a user would pick instead, each in its usual or its fastest form."""
