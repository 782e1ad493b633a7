"""`/v2`: the Open Inference Protocol with sequences, as Triton's clients speak it.

    bytes -> request.py (JSON and binary tensors) --\\                        /-- answer.py -> bytes
                                                     > inference.py -> engine
    protobuf -> rpc/ ------------------------------/                        \\-- rpc/ -> protobuf

A sequence is a session, its number in decimal: sequence 7 is session `7`, here and under `/sessions`. What
is not a request for a prediction (metadata, configuration, statistics, the repository) is in `catalog.py`
and `statistics.py`, told alike by HTTP and gRPC. Numbers are checked in `numbers.py`; errors are worded as
Triton words them: `wording.py`.

Sources: the KServe Open Inference Protocol V2, and Triton's extensions to it for sequences, binary tensor
data, parameters, statistics, model configuration and the model repository.
"""
