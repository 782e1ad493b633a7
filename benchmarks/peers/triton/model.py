"""The model as Triton's Python backend runs it: a batch of sequences in one pass, their rows in a dict."""

# mypy: ignore-errors
# (triton_python_backend_utils exists only inside the server)

from __future__ import annotations

import os
import sys
from typing import Any

sys.path.append(os.environ["BENCHMARK_PACKAGES"])

import torch
import triton_python_backend_utils as triton  # put on the path by the backend
from safetensors.torch import load_file
from torch.utils.dlpack import to_dlpack

HIDDEN = 64


class TritonPythonModel:
    """The class that the backend looks for by name."""

    def initialize(self, _: dict[str, str]) -> None:
        torch.set_num_threads(1)
        weights = load_file(os.environ["BENCHMARK_WEIGHTS"])
        self.network = torch.nn.ModuleDict(
            {"lstm": torch.nn.LSTM(1, HIDDEN, batch_first=True), "fc": torch.nn.Linear(HIDDEN, 1)}
        )
        self.network.load_state_dict(weights)
        self.fresh = torch.zeros(2 * HIDDEN)
        self.rows: dict[int, torch.Tensor] = {}
        self.positions: dict[int, int] = {}

    def execute(self, requests: list[Any]) -> list[Any]:
        chunks = [_tensor(request, "observations") for request in requests]  # each [1, steps, 1]
        responses: list[Any] = [None] * len(requests)
        for length in {chunk.shape[1] for chunk in chunks}:
            places = [place for place, chunk in enumerate(chunks) if chunk.shape[1] == length]
            names = [int(_tensor(requests[place], "CORRID")) for place in places]
            predictions = self._step(names, torch.cat([chunks[place] for place in places]))
            for index, (place, name) in enumerate(zip(places, names, strict=True)):
                responses[place] = _response(predictions[index : index + 1], self.positions[name])
                if int(_tensor(requests[place], "END")):
                    del self.rows[name], self.positions[name]
        return responses

    @torch.inference_mode()
    def _step(self, names: list[int], observations: torch.Tensor) -> torch.Tensor:
        rows = torch.stack([self.rows.get(name, self.fresh) for name in names]).unsqueeze(0)
        h, c = (part.contiguous() for part in rows.split(HIDDEN, dim=2))
        hidden, (h, c) = self.network["lstm"](observations, (h, c))
        for name, row in zip(names, torch.cat((h[0], c[0]), dim=1).unbind(0), strict=True):
            self.positions[name] = self.positions.get(name, 0) + observations.shape[1]
            self.rows[name] = row
        predictions: torch.Tensor = self.network["fc"](hidden).contiguous()  # [batch, steps, 1]
        return predictions


# By DLPack: the backend's own conversion was built for NumPy 1 and reads NumPy 2's arrays with a wrong size.
def _tensor(request: Any, name: str) -> torch.Tensor:
    return torch.from_dlpack(triton.get_input_tensor_by_name(request, name).to_dlpack())


def _response(predictions: torch.Tensor, position: int) -> Any:
    outputs = {"predictions": predictions, "POSITION": torch.tensor([[position]], dtype=torch.int32)}
    return triton.InferenceResponse(
        [triton.Tensor.from_dlpack(name, to_dlpack(tensor)) for name, tensor in outputs.items()]
    )
