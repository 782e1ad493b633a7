"""`/v2`: the Open Inference Protocol with sequences, as Triton's clients speak it.

    bytes -> decode.py (JSON and binary tensors) --\\                         /-- encode.py -> bytes
                                                    > inference.py -> engine
    protobuf -> grpc/conversion.py ---------------/                         \\-- grpc/conversion.py

A sequence is a session whose id is the sequence's number in decimal: sequence 7 is session `7`, here and
under `/sessions`. Metadata, configuration, statistics and the repository are in `catalog.py` and
`statistics.py`; HTTP and gRPC answer the same. Numbers are checked in `tensors.py`. Errors have Triton's
texts: `triton_errors.py`.

Sources: the KServe Open Inference Protocol V2, and Triton's extensions to it for sequences, binary tensor
data, parameters, statistics, model configuration and the model repository.
"""
