"""`/v2` over gRPC: `inference.GRPCInferenceService`, on a port of its own.

    messages.py   the protocol's messages, as a table
    tensors.py    an inference from its request, a response from its answer
    service.py    one function a call
    server.py     the port

Needs the extra `grpc`; nothing else of the project imports this package.
"""
