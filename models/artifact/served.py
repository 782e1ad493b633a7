"""The artifacts that can be served. Beside what is their own they have these attributes in common:

input_ports, output_ports         of the network; their numbers in order make an observation, a prediction
listed_inputs, listed_outputs     the same numbers as people see them: a port for each name
columns, targets                  a name for each number of an observation and of a prediction
predicted_by                      for each number of an observation that of its prediction, or None
fed_back                          by input the output that becomes its next value in a forecast
missing                           the inputs that are neither predicted nor known ahead; with any, no forecast
text                              how the next token of a model of text is drawn; None for any other
scaling, target_scaling           None where the network takes numbers as they are
fleet                             None where all sessions have one scale
learning, future, time_features, interval_seconds, time_input_count, hidden_size, num_layers, architecture,
predicts                          as in `Artifact`; at their defaults, or None, for a graph
has_time_axis, states, controls   the tensors of a graph, as a client of Triton's knows them
name, fingerprint, metrics, net
"""

from models.artifact.artifact import Artifact
from models.artifact.graph_artifact import GraphArtifact

ServedArtifact = Artifact | GraphArtifact
