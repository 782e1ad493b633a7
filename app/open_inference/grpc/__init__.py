"""`/v2` over gRPC: `inference.GRPCInferenceService`, on a port of its own.

    inference.proto  the protocol's messages
    messages.py      their classes
    decoding.py      messages from bytes, within a bound
    conversion.py    an inference from its request, a response from its answer
    service.py       one function for each call
    infer_stream.py  one stream of requests
    server.py        the port

Needs the extra `grpc`; nothing else of the project imports this package.
"""
